//! Who has a device open: as far as the kernel tells.

use std::fs::{Metadata, metadata, read_dir, read_to_string};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The processes that have the file or device at `path` open, for a person: `process 12 (qemu)`, or `another program`.
pub fn named(path: &Path) -> String {
    // The same device may have several names in `/dev`, a file several in its folders.
    let node = |of: &Metadata| match of.file_type().is_block_device() {
        true => (true, of.rdev(), 0),
        false => (false, of.dev(), of.ino()),
    };
    let same = |one: &Metadata, other: &Metadata| node(one) == node(other);
    let Ok(wanted) = metadata(path) else { return "another program".to_string() };
    let own = std::process::id();
    let mut found: Vec<u32> = entries(Path::new("/proc"))
        .filter_map(|name| name.parse::<u32>().ok())
        .filter(|process| *process != own)
        .filter(|process| {
            let fds = Path::new("/proc").join(process.to_string()).join("fd");
            entries(&fds).any(|fd| metadata(fds.join(fd)).is_ok_and(|of| same(&of, &wanted)))
        })
        .collect();
    found.sort_unstable();
    let texts: Vec<String> = found
        .iter()
        .map(|process| {
            let name = read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            format!("process {process} ({})", name.trim_end())
        })
        .collect();
    if texts.is_empty() { "another program".to_string() } else { texts.join(" and ") }
}

/// The names in a folder that can be read; none where it cannot.
fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let entries = read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn whoever_has_it_open_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(named(file.path()), "another program", "this one does not count");
        let input = std::fs::File::open(file.path()).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(input)).spawn().unwrap();
        // Until it is the other program it still has the name of this one.
        let expected = format!("process {} (sleep)", child.id());
        let told = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            named(file.path()) == expected
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told, "{expected}");
        assert_eq!(named(file.path()), "another program");
    }
}

//! Writable snapshots through the program: cloned, written, read, compared, listed, deleted; also of a volume that another
//! program has open.

use crate::support::*;

fn made(backend: &str) -> Image {
    let image = Image::new(64 * MIB);
    icecore(&["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", backend]).ok();
    image
}

fn read_at(path: &str, name: &str) -> String {
    icecore(&["read", path, "--offset", "4094", "--length", "4", "--at", name]).ok().text()
}

#[test]
fn one_is_cloned_written_and_read_and_goes_before_what_it_began_as() {
    for backend in ["log", "cow", "overlay"] {
        let image = made(backend);
        let path = &image.path;
        write(path, 0, &[b'A'; 8192]).ok();
        icecore(&["snapshot", "create", path, "monday"]).ok();
        let made = icecore(&["snapshot", "clone", path, "monday", "trial", "--json"]).ok().json();
        assert_eq!((&made["writable"], &made["of"]), (&true.into(), &"monday".into()));
        icecore_with(&["write", path, "--offset", "4095", "--to", "trial"], b"t").ok();
        icecore(&["snapshot", "create", path, "before", "--of", "trial"]).ok();
        icecore_with(&["write", path, "--offset", "4096", "--to", "trial"], b"T").ok();
        write(path, 4094, b"v").ok();
        let shown = ["monday", "trial", "before"].map(|name| read_at(path, name));
        assert_eq!(shown, ["AAAA", "AtTA", "AtAA"], "{backend}");
        assert_eq!(read(path, 4094, 4).ok().text(), "vAAA");
        // Parents stay, snapshots are not written.
        icecore_with(&["write", path, "--offset", "0", "--to", "monday"], b"x").refused(64, "not written");
        icecore(&["snapshot", "delete", path, "monday"]).refused(64, "has snapshots of its own");
        icecore(&["snapshot", "delete", path, "trial"]).refused(64, "has snapshots of its own");
        let listed = icecore(&["snapshot", "list", path, "--json"]).ok().json();
        let names: Vec<_> =
            listed["snapshots"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["monday", "trial", "before"]);
        let changed = icecore(&["snapshot", "diff", path, "before", "trial", "--json"]).ok().json();
        assert_eq!(changed["changed"].as_array().unwrap().len(), 1, "{changed}");
        icecore(&["check", path]).ok();
        for name in ["before", "trial", "monday"] {
            icecore(&["snapshot", "delete", path, name]).ok();
        }
        assert_eq!(icecore(&["snapshot", "list", path]).ok().text(), "");
        icecore(&["check", path]).ok();
    }
}

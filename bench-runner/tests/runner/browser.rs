//! A headless Chromium for tests that look at what is drawn: what the page says of its own layout, and its pixels.
//!
//! The program is `CHROMIUM`, or the first of `chromium`, `chromium-browser`, `google-chrome` on the path.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flate2::read::ZlibDecoder;
use serde_json::Value;

/// Width of the window; pictures stand beside each other there, as small as they become on a large screen.
const WIDTH: u64 = 1200;
/// A page takes two seconds; on a machine that is busy with other tests, ten times that.
const SECONDS_MAX: &str = "120";
/// Told by the page of itself.
const FACTS: &str = include_str!("page_facts.js");

/// Light or dark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Light,
    Dark,
}

/// A browser that was found.
pub struct Browser {
    program: PathBuf,
    /// Its profile and the pages.
    folder: tempfile::TempDir,
}

impl Browser {
    /// The browser of this machine; says why there is none.
    pub fn find() -> Option<Self> {
        let named = env::var_os("CHROMIUM").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path =
            |name: &str| env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists());
        let program = named.or_else(|| {
            ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| on_path(name))
        });
        if program.is_none() {
            println!("skipped: no Chromium; install one (Debian: chromium) or name it in CHROMIUM");
        }
        Some(Browser { program: program?, folder: tempfile::tempdir().unwrap() })
    }

    /// What a page says of its layout.
    pub fn facts(&self, html: &str, mode: Mode) -> Value {
        // The page forbids scripts; its copy has one.
        let policy =
            html.find("<meta http-equiv=\"Content-Security-Policy\"").expect("the report forbids scripts");
        let end = policy + html[policy..].find('>').unwrap() + 1;
        let html = format!("{}{}", &html[..policy], &html[end..]);
        let page =
            self.page("facts.html", &html.replace("</body>", &format!("<script>{FACTS}</script></body>")));
        let output = self.run(mode, 1_000, [OsStr::new("--dump-dom"), page.as_os_str()]);
        let text = String::from_utf8(output.stdout).unwrap();
        let facts = text.split_once("<pre id=\"facts\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let (facts, _) =
            facts.unwrap_or_else(|| panic!("no facts: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let facts =
            facts.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        serde_json::from_str(&facts).unwrap()
    }

    /// The pixels of a page of that height; also kept as a PNG file at `keep`.
    pub fn pixels(&self, html: &str, mode: Mode, height: u64, keep: &Path) -> Pixels {
        let page = self.page("pixels.html", &html.replace("<details>", "<details open>"));
        let _ = fs::remove_file(keep);
        let screenshot = format!("--screenshot={}", keep.display());
        let output = self.run(mode, height, [OsStr::new(&screenshot), page.as_os_str()]);
        let bytes = fs::read(keep);
        let bytes =
            bytes.unwrap_or_else(|_| panic!("no picture: {}", String::from_utf8_lossy(&output.stderr)));
        Pixels::decode(&bytes)
    }

    fn page(&self, name: &str, html: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, html).unwrap();
        path
    }

    fn run<'a>(&self, mode: Mode, height: u64, arguments: impl IntoIterator<Item = &'a OsStr>) -> Output {
        let folder = self.folder.path();
        let mut command = Command::new("timeout");
        command.arg(SECONDS_MAX).arg(&self.program).args([
            "--headless",
            // The page is our own, and the sandbox needs rights that tests may not have.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ]);
        if mode == Mode::Dark {
            command.arg("--force-dark-mode");
        }
        command.arg(format!("--window-size={WIDTH},{height}"));
        command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
        command.args(arguments).env("HOME", folder).env_remove("DBUS_SESSION_BUS_ADDRESS");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

/// A picture as red, green and blue.
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    bytes: Vec<u8>,
    channels: usize,
}

impl Pixels {
    /// A PNG file as Chromium writes it: 8 bits a channel, not interlaced.
    fn decode(png: &[u8]) -> Self {
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(&png[1..4], b"PNG");
        let (width, height) = (number(16), number(20));
        let channels = match (png[24], png[25], png[28]) {
            (8, 2, 0) => 3,
            (8, 6, 0) => 4,
            other => panic!("depth, colour type and interlace {other:?}"),
        };
        let (mut at, mut packed) = (8, Vec::new());
        while at < png.len() {
            let length = number(at);
            if &png[at + 4..at + 8] == b"IDAT" {
                packed.extend_from_slice(&png[at + 8..at + 8 + length]);
            }
            at += 12 + length;
        }
        let mut raw = Vec::new();
        std::io::Read::read_to_end(&mut ZlibDecoder::new(&packed[..]), &mut raw).unwrap();
        let stride = width * channels;
        let mut bytes = vec![0u8; stride * height];
        for row in 0..height {
            let line = &raw[row * (stride + 1)..(row + 1) * (stride + 1)];
            for x in 0..stride {
                let left = if x < channels { 0 } else { bytes[row * stride + x - channels] };
                let up = if row == 0 { 0 } else { bytes[(row - 1) * stride + x] };
                let corner =
                    if row == 0 || x < channels { 0 } else { bytes[(row - 1) * stride + x - channels] };
                let predicted = match line[0] {
                    0 => 0,
                    1 => left,
                    2 => up,
                    3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
                    4 => paeth(left, up, corner),
                    filter => panic!("filter {filter}"),
                };
                bytes[row * stride + x] = line[1 + x].wrapping_add(predicted);
            }
        }
        Pixels { width, height, bytes, channels }
    }

    /// Whether a rectangle has a pixel of that colour, or one that is at least halfway from what is behind it: the edge of a mark
    /// is mixed with that.
    pub fn has(&self, [left, top, right, bottom]: [f64; 4], paint: [f64; 3], back: [f64; 3]) -> bool {
        let columns = left.max(0.0) as usize..(right as usize).min(self.width);
        let mut rows = top.max(0.0) as usize..(bottom as usize).min(self.height);
        let way: [f64; 3] = std::array::from_fn(|channel| paint[channel] - back[channel]);
        let length = way.iter().map(|part| part * part).sum::<f64>();
        let is_it = |row: usize, column: usize| {
            let at = (row * self.width + column) * self.channels;
            let from_back: [f64; 3] =
                std::array::from_fn(|channel| f64::from(self.bytes[at + channel]) - back[channel]);
            let share = way.iter().zip(from_back).map(|(one, other)| one * other).sum::<f64>() / length;
            let is_near = way.iter().zip(from_back).all(|(part, seen)| (part * share - seen).abs() <= 8.0);
            (0.45..=1.05).contains(&share) && is_near
        };
        rows.any(|row| columns.clone().any(|column| is_it(row, column)))
    }
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let estimate = i16::from(left) + i16::from(up) - i16::from(corner);
    let far = |one: u8| (estimate - i16::from(one)).abs();
    if far(left) <= far(up) && far(left) <= far(corner) {
        left
    } else if far(up) <= far(corner) {
        up
    } else {
        corner
    }
}

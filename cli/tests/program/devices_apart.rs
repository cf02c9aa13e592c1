//! The program on volumes whose log, blocks and linear objects lie on devices of their own.

use crate::support::*;

#[test]
fn a_volume_and_its_log_on_two_devices() {
    let (log, volume) = (Image::new(64 * MIB), Image::new(32 * MIB));
    let base = [
        "create",
        "--device",
        &log.path,
        "--destroy",
        &log.destroy(),
        "--backend",
        "linear",
        "--size",
        "16M",
    ];
    let apart = ["--volume-device", &volume.path];
    // Neither is overwritten without its exact name.
    let before = (log.bytes(), volume.bytes());
    icecore(&[&base[..], &apart].concat()).refused(3, "--destroy");
    let other = log.destroy();
    icecore(&[&base[..], &apart, &["--destroy-volume-device", &other]].concat())
        .refused(3, "does not name this device");
    assert_eq!((log.bytes(), volume.bytes()), before);
    let made =
        icecore(&[&base[..], &apart, &["--destroy-volume-device", &volume.destroy(), "--json"]].concat());
    let made = made.ok().json();
    assert_eq!((&made["roles"][0]["role"], &made["roles"][1]["role"]), (&"volume".into(), &"log".into()));

    let on = |path: &str, more: &[&str]| {
        icecore_with(&[&["write", path, "--offset", "4100"][..], more].concat(), b"apart")
    };
    let before = (log.bytes(), volume.bytes());
    let missing = made["roles"][0]["device_id"].as_str().unwrap();
    let refused = on(&log.path, &[]).refused(4, &format!("its volume device, {missing}, is missing"));
    assert!(refused.stderr.contains("--volume-device PATH"), "{}", refused.stderr);
    on(&volume.path, &["--volume-device", &log.path]).refused(64, "it is not the log device of this pool");
    icecore(&["inspect", &volume.path]).refused(64, "it is the volume device");
    assert_eq!((log.bytes(), volume.bytes()), before, "what is refused writes nothing");
    on(&log.path, &apart).ok();
    let read = ["read", &log.path, "--offset", "4100", "--length", "5"];
    assert_eq!(icecore(&[&read[..], &apart].concat()).ok().stdout, b"apart");
    icecore(&read).refused(4, "is missing");
    let info = icecore(&[&["inspect", &log.path, "--json"][..], &apart].concat()).ok().json();
    assert_eq!(
        (&info["device"], &info["volume_device"]),
        (&log.path.as_str().into(), &volume.path.as_str().into())
    );
    assert_eq!((&info["features"], &info["id"]), (&serde_json::json!(["log", "volume device"]), &made["id"]));
    icecore(&["apply", &log.path]).refused(4, "is missing");
    let commands: [&[&str]; 4] = [&["apply"], &["pin"], &["accept", "--through", "1"], &["accept", "--all"]];
    for command in commands {
        let done = icecore(&[command, &[&log.path, "--json"], &apart].concat()).ok().json();
        assert_eq!((&done["applied"], &done["extents"]), (&1.into(), &1.into()), "{command:?}");
    }
    let home = volume.bytes().0;
    assert!(home.windows(5).any(|bytes| bytes == b"apart"), "it is on the volume's device");
    icecore(&["check", &log.path]).refused(4, "is missing");
    icecore(&["check", &volume.path, "--volume-device", &log.path]).refused(64, "not the log device");
    let checked = icecore(&[&["check", &log.path, "--json"][..], &apart].concat()).ok().json();
    assert_eq!((&checked["clean"], &checked["blocks"]), (&true.into(), &1.into()), "{checked}");
    let out = format!("{}.salvaged", log.path);
    let salvage = ["salvage", &log.path, "--out", &out];
    icecore(&salvage).refused(4, "is missing");
    icecore(&[&salvage[..], &apart].concat()).ok();
    assert_eq!(&std::fs::read(&out).unwrap()[4100..4105], b"apart");
    let _gone = std::fs::remove_file(&out);
    // The pool's device grows, and the other one stays as it is.
    std::fs::File::options().write(true).open(&log.path).unwrap().set_len(96 * MIB).unwrap();
    icecore(&["grow", &log.path]).refused(4, "is missing");
    let before = volume.bytes();
    let grown = icecore(&[&["grow", &log.path, "--json"][..], &apart].concat()).ok().json();
    let room = |name: &str| grown[name].as_u64().unwrap();
    assert!(room("room_bytes") > room("room_before_bytes") + 8 * MIB, "{grown}");
    assert_eq!(volume.bytes(), before);
    assert_eq!(icecore(&[&read[..], &apart].concat()).ok().stdout, b"apart");
    icecore(&[&["check", &log.path][..], &apart].concat()).ok();
    let plain = Image::with_volume(16 * MIB, &[]);
    let extra = ["read", &plain.path, "--offset", "0", "--length", "1", "--volume-device", &volume.path];
    icecore(&extra).refused(64, "volume device = ");
}

#[test]
fn a_base_and_its_overlays_on_two_devices() {
    for backend in ["overlay", "cow"] {
        let (log, base) = (Image::new(64 * MIB), Image::new(32 * MIB));
        let apart = ["--volume-device", &base.path];
        let create = ["create", "--device", &log.path, "--destroy", &log.destroy(), "--backend", backend];
        let made =
            icecore(&[&create[..], &apart, &["--destroy-volume-device", &base.destroy(), "--json"]].concat());
        let made = made.ok().json();
        assert_eq!(made["size_bytes"], 31 * MIB, "what the base's device has behind its superblocks");
        assert_eq!((&made["roles"][0]["role"], &made["roles"][1]["role"]), (&"volume".into(), &"log".into()));
        let on = |command: &[&str], input: &[u8]| icecore_with(&[command, &apart].concat(), input);
        on(&["write", &log.path, "--offset", "4096"], b"before").ok();
        on(&["snapshot", "create", &log.path, "T0"], b"").ok();
        on(&["write", &log.path, "--offset", "4096"], b"behind").ok();
        let read = ["read", &log.path, "--offset", "4096", "--length", "6"];
        assert_eq!(on(&read, b"").ok().stdout, b"behind", "{backend}");
        assert_eq!(on(&[&read[..], &["--at", "T0"]].concat(), b"").ok().stdout, b"before", "{backend}");
        icecore(&read).refused(4, "is missing");
        let lies =
            |image: &Image| (image.bytes().0.windows(6).any(|bytes| bytes == b"before"), image.bytes().0);
        let in_base = if backend == "cow" { &b"behind"[..] } else { b"before" };
        assert_eq!(&lies(&base).1[(MIB + 4096) as usize..][..6], in_base, "{backend}");
        assert_eq!(lies(&log).0, backend == "cow", "what was saved is in the log");
        on(&["check", &log.path], b"").ok();
        let out = format!("{}.salvaged", log.path);
        for (more, bytes) in [(&["--at", "T0"][..], b"before"), (&[], b"behind")] {
            on(&[&["salvage", &log.path, "--out", &out][..], more].concat(), b"").ok();
            assert_eq!(&std::fs::read(&out).unwrap()[4096..4102], bytes, "{backend}");
            let _gone = std::fs::remove_file(&out);
        }
        let info = on(&["inspect", &log.path, "--json"], b"").ok().json();
        assert_eq!(info["volume_device"], base.path.as_str());
        assert_eq!(info["features"], serde_json::json!(["log", "base", "volume device", "snapshots"]));
        // Without its log, each is what it is for certain.
        let alone = ["read", &base.path, "--offset", "4096", "--length", "6", "--without-log"];
        let (shown, other) = if backend == "cow" { ("current", "oldest") } else { ("oldest", "current") };
        assert_eq!(icecore(&[&alone[..], &[shown]].concat()).ok().stdout, in_base, "{backend}");
        icecore(&[&alone[..], &[other]].concat())
            .refused(4, if backend == "cow" { "is broken" } else { "is missing" });
        if backend == "overlay" {
            on(&["snapshot", "delete", &log.path, "T0"], b"").ok();
            icecore(&["fold", &log.path]).refused(4, "is missing");
            on(&["fold", &log.path], b"").ok();
            assert_eq!(&lies(&base).1[(MIB + 4096) as usize..][..6], b"behind");
            let write = ["write", &base.path, "--offset", "4096", "--without-log"];
            icecore_with(&write, b"anything").refused(4, "is missing");
        } else {
            icecore_with(&["write", &base.path, "--offset", "4096", "--without-log"], b"alone!").ok();
            assert_eq!(icecore(&[&alone[..], &["current"]].concat()).ok().stdout, b"alone!");
            on(&read, b"").refused(64, "written without its log");
        }
    }
}

#[test]
fn linear_objects_on_a_device_of_their_own() {
    for backend in ["overlay", "cow"] {
        let (log, base, objects) = (Image::new(64 * MIB), Image::new(32 * MIB), Image::new(48 * MIB));
        let names = [log.destroy(), base.destroy(), objects.destroy()];
        let create = ["create", "--device", &log.path, "--destroy", &names[0], "--backend", backend];
        let create = [&create[..], &["--size", "16M", "--volume-device", &base.path]].concat();
        let create = [&create[..], &["--destroy-volume-device", &names[1]]].concat();
        let own = ["--objects-device", &objects.path];
        let before = objects.bytes();
        icecore(&[&create[..], &own, &["--objects", "linear"]].concat()).refused(3, "--destroy");
        let create = [&create[..], &own, &["--destroy-objects-device", &names[2], "--json"]].concat();
        icecore(&create).refused(64, "only linear objects lie on a device of their own");
        icecore(&[&create[..], &["--objects", "linear", "--without-objects"]].concat()).refused(64, "");
        assert_eq!(objects.bytes(), before, "it is not overwritten without its exact name, nor for nothing");
        let made = icecore(&[&create[..], &["--objects", "linear"]].concat()).ok().json();
        let roles: Vec<_> =
            made["roles"].as_array().unwrap().iter().map(|role| role["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["volume", "log", "objects"]);
        let id = made["roles"][2]["device_id"].as_str().unwrap().to_string();

        let apart = ["--volume-device", &base.path];
        let all = [&apart[..], &own].concat();
        let on = |command: &[&str], input: &[u8]| icecore_with(&[command, &all].concat(), input);
        let write = ["write", &log.path, "--offset", "4096"];
        on(&write, b"before").ok();
        on(&["snapshot", "create", &log.path, "T0"], b"").ok();
        on(&write, b"behind").ok();
        let read = ["read", &log.path, "--offset", "4096", "--length", "6"];
        assert_eq!(on(&read, b"").ok().stdout, b"behind", "{backend}");
        assert_eq!(on(&[&read[..], &["--at", "T0"]].concat(), b"").ok().stdout, b"before", "{backend}");
        let has = |image: &Image, wanted: &[u8]| image.bytes().0.windows(6).any(|bytes| bytes == wanted);
        let in_object = if backend == "cow" { &b"before"[..] } else { b"behind" };
        assert!(has(&objects, in_object) && !has(&log, b"before") && !has(&log, b"behind"), "{backend}");
        let info = on(&["inspect", &log.path, "--json"], b"").ok().json();
        assert_eq!(
            (&info["volume_device"], &info["objects_device"]),
            (&base.path.as_str().into(), &objects.path.as_str().into())
        );
        let features = ["log", "base", "volume device", "snapshots", "linear objects", "objects device"];
        assert_eq!(info["features"], serde_json::json!(features));

        // Missing, exchanged, or given where there is none.
        let bytes = || (log.bytes(), base.bytes(), objects.bytes());
        let before = bytes();
        let missing = icecore(&[&read[..], &apart].concat());
        let missing = missing.refused(4, &format!("its objects device, {id}, is missing"));
        assert!(missing.stderr.contains("--objects-device PATH"), "{}", missing.stderr);
        let exchanged = ["--volume-device", &objects.path, "--objects-device", &base.path];
        icecore(&[&read[..], &exchanged].concat()).refused(64, "it is not the volume device of this pool");
        icecore(&["inspect", &objects.path]).refused(64, "it is the objects device");
        icecore(&["check", &objects.path]).refused(64, "it is the objects device");
        icecore(&[&["check", &log.path][..], &exchanged].concat()).refused(64, "it is not the volume device");
        for command in ["check", "grow"] {
            icecore(&[&[command, &log.path][..], &apart].concat()).refused(4, "its objects device");
        }
        let checked = on(&["check", &log.path, "--json"], b"").ok().json();
        assert_eq!(
            (&checked["clean"], &checked["blocks"]),
            (&true.into(), &u8::from(backend == "cow").into()),
            "{checked}"
        );
        let out = format!("{}.salvaged", log.path);
        let salvage = ["salvage", &log.path, "--out", &out, "--at", "T0", "--doubtful"];
        icecore(&[&salvage[..], &apart].concat()).refused(4, "its objects device");
        let _whole_or_not = on(&salvage, b"");
        assert_eq!(&std::fs::read(&out).unwrap()[4096..4102], b"before", "{backend}");
        std::fs::remove_file(&out).unwrap();

        // Lost: what lies there is refused, and nothing else is shown in its place.
        let lost = [&apart[..], &["--without-objects"]].concat();
        let without = |command: &[&str]| icecore_with(&[command, &lost].concat(), b"never");
        let other = ["read", &log.path, "--offset", "8192", "--length", "2"];
        assert_eq!(without(&other).ok().stdout, [0, 0], "{backend}");
        let past = [&read[..], &["--at", "T0"]].concat();
        if backend == "overlay" {
            let refused = without(&read).refused(4, &format!("this block is on its objects device, {id}"));
            assert!(refused.stdout.is_empty());
            assert_eq!(without(&past).ok().stdout, b"before");
        } else {
            assert_eq!(without(&read).ok().stdout, b"behind");
            without(&past).refused(4, "is broken");
        }
        let listed = without(&["snapshot", "list", &log.path, "--json"]).ok().json();
        assert_eq!(listed["snapshots"][0]["broken"], backend == "cow");
        let info = without(&["inspect", &log.path, "--json"]).ok().json();
        assert_eq!(info["snapshots"][0]["broken"], backend == "cow");
        without(&write).refused(4, "is missing");
        icecore(&[&read[..], &all, &["--without-objects"]].concat()).refused(64, "");
        assert_eq!(bytes(), before, "nothing of this writes");
        assert_eq!(on(&read, b"").ok().stdout, b"behind", "with its device it is what it was");
    }
}

//! The order of time, and that neither chunks nor threads show.

use icecore_workloads::trace::{Format, Place, TraceErrorKind, TraceOptions};

use crate::support::{format, read, read_bytes, refused};

fn line(time_us: u64, offset: u64) -> String {
    format!("1,W,{},512,{time_us}\n", offset * 512)
}

fn window(sort_window_records: usize) -> TraceOptions {
    TraceOptions { sort_window_records: Some(sort_window_records), ..format(Format::Alibaba) }
}

/// A record that 10 others overtook needs a window of 10.
#[test]
fn what_is_later_than_the_window_is_refused_with_the_option() {
    let mut text: String = (0..50).map(|number| line(1000 + number, number)).collect();
    text.push_str(&line(1039, 99));
    text.push_str(&line(2000, 100));
    let (records, reports) = read_bytes(text.as_bytes(), &window(10)).unwrap();
    assert!(records.is_sorted_by_key(|record| record.arrival_ns));
    // It comes after the one that has the same time and stands before it.
    assert_eq!(records.iter().position(|record| record.offset_bytes == 99 * 512), Some(40));
    assert_eq!((records.len(), reports[0].sorted_records), (52, 1));

    let error = refused(read_bytes(text.as_bytes(), &window(9)));
    assert_eq!((error.kind(), error.place()), (TraceErrorKind::Unsorted, Place::Line(51)));
    assert!(error.reason().contains("a window of 9"), "{error}");
    assert!(error.reason().contains("--sort-window"), "{error}");
    assert!(error.reason().contains("0.000001000 s earlier"), "{error}");
}

#[test]
fn sorted_records_begin_with_the_earliest() {
    let text = [line(30, 0), line(20, 1), line(10, 2)].concat();
    let (records, _) = read_bytes(text.as_bytes(), &window(2)).unwrap();
    let times: Vec<_> = records.iter().map(|record| record.arrival_ns).collect();
    assert_eq!(times, [0, 10_000, 20_000]);
}

/// Many chunks, of which several are parsed side by side; an error far behind is told with its line, and everything
/// before it that had left the window was passed on. With one thread the same happens.
#[test]
fn many_chunks_are_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let count = 200_000_u64;
    let mut text: String = (0..count).map(|number| line(number, number)).collect();
    std::fs::write(&path, &text).unwrap();
    let paths = [path.clone()];
    let read_all = || {
        let (records, reports) = read(&paths, &window(100)).unwrap();
        assert_eq!(reports[0].content_bytes, text.len() as u64);
        assert_eq!(records.len() as u64, count);
        for (number, record) in records.iter().enumerate() {
            assert_eq!((record.arrival_ns, record.offset_bytes), (number as u64 * 1000, number as u64 * 512));
        }
    };
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let four_threads = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    one_thread.install(read_all);
    four_threads.install(read_all);

    text.push_str("nonsense\n");
    text.push_str(&line(count, 0));
    std::fs::write(&path, &text).unwrap();
    for pool in [&one_thread, &four_threads] {
        let error = pool.install(|| refused(read(&paths, &window(100))));
        assert_eq!(error.place(), Place::Line(count + 1));
    }
}

/// Waits and names run on over the ends of chunks.
#[test]
fn what_a_chunk_leaves_the_next_goes_on_with() {
    let mut text = "fio version 2 iolog\n".to_owned();
    let count = 40_000;
    for number in 0..count {
        text.push_str(&format!("file{} write {} 512\nx wait 3 0\n", number % 3, number * 512));
    }
    assert!(text.len() > 1 << 20);
    let four_threads = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    let (records, _) =
        four_threads.install(|| read_bytes(text.as_bytes(), &TraceOptions::default())).unwrap();
    assert_eq!(records.len(), count);
    for (number, record) in records.iter().enumerate() {
        assert_eq!((record.arrival_ns, record.volume), (number as u64 * 3_000, (number % 3) as u32));
    }
}

/// Files are merged by the times that stand in them.
#[test]
fn files_are_merged_by_time() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..5).map(|file| folder.path().join(file.to_string())).collect();
    for (file, path) in paths.iter().enumerate() {
        let text: String =
            (0..1000).map(|number| line(100 + number * 5 + file as u64, file as u64)).collect();
        std::fs::write(path, text).unwrap();
    }
    let (records, _) = read(&paths, &window(4)).unwrap();
    assert_eq!(records.len(), 5000);
    for (number, record) in records.iter().enumerate() {
        assert_eq!((record.arrival_ns, record.offset_bytes), (number as u64 * 1000, number as u64 % 5 * 512));
    }
}

/// What is read of one of many files at a time is less than some lines are long; where it ends does not show, and a line may be as long
/// as in any file.
#[test]
fn lines_of_many_files_are_longer_than_what_is_read_at_a_time() {
    const FILES: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..FILES).map(|file| folder.path().join(file.to_string())).collect();
    let padded = |time_us, offset, blanks| line(time_us, offset).replace('\n', &(" ".repeat(blanks) + "\n"));
    for (file, path) in (0..FILES).zip(&paths) {
        // Within a piece, over two of them, over several.
        let lines = [100, 9_000, 40_000, 65_000, 10];
        let text = (0..).zip(lines).map(|(number, blanks)| padded(number * FILES + file, file, blanks));
        std::fs::write(path, text.collect::<String>()).unwrap();
    }
    let (records, reports) = read(&paths, &TraceOptions::default()).unwrap();
    assert_eq!((records.len() as u64, reports.len() as u64), (5 * FILES, FILES));
    for (number, record) in (0..).zip(&records) {
        assert_eq!((record.arrival_ns, record.offset_bytes), (number * 1_000, number % FILES * 512));
    }
    std::fs::write(&paths[7], [line(1, 1), padded(2, 2, 65_600)].concat()).unwrap();
    let error = refused(read(&paths, &TraceOptions::default()));
    assert_eq!((error.kind(), error.place()), (TraceErrorKind::Damaged, Place::Line(2)), "{error}");
}

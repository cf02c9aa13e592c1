//! A device that stands still: its server keeps its own record of it, and the run's seconds and latencies are held against that.
//!
//! The server answers one request after another, so that its record bounds what the runner can have seen, however busy the machine is: a
//! request has been begun when it came, and not before the answer that made room for it; it completes behind its own answer, and before the request that
//! takes its place has come. Every figure has to lie between these bounds.

use std::io::Write;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench_runner::results::{RunData, RunRow, SecondRow, from_rfc3339};
use hdrhistogram::Histogram;
use icecore::format::nbd::{CMD_READ, CMD_WRITE, Request, SimpleReply};
use icecore_workloads::{Schedule, Workload};
use zerocopy::IntoBytes;

use crate::nbd_server::{Offer, Server, handshake, read_reply, request};
use crate::support::{self, expect, run_in, words};

const DEPTH: usize = 4;
const SECOND_NS: u64 = 1_000_000_000;
/// What an answer takes, so that the load is one that an unoptimised program bears.
const SERVICE: Duration = Duration::from_millis(1);
/// So long after its first request a load meets the stall: in its first second, to end in the second one.
const STALL_AFTER_NS: u64 = 500_000_000;
const STALL: Duration = Duration::from_millis(900);
/// What the time of the manifest leaves open, which is in milliseconds, and two ways to read one clock.
const CLOCKS_NS: u64 = 2_000_000;

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// A request of a load, as the server saw it.
#[derive(Clone, Copy, Debug)]
struct Served {
    came_ns: u64,
    /// Right before it was answered.
    answered_ns: u64,
}

/// A load, as the server saw it.
#[derive(Clone, Debug, Default)]
struct Recording {
    /// When the last answer before it was given.
    before_ns: u64,
    served: Vec<Served>,
    /// When the device stood still: answers that were due then came behind it.
    stall_ns: Option<(u64, u64)>,
    /// When the first request behind it came.
    after_ns: u64,
}

/// What the server keeps.
#[derive(Default)]
struct Record {
    loads: Vec<Recording>,
    is_filled: bool,
    is_loaded: bool,
    answered_ns: u64,
}

impl Record {
    /// Takes note of a request; whether it is one of a load: a read of a block, of a device that has been filled.
    fn note(&mut self, request: &Request, came_ns: u64) -> bool {
        self.is_filled |= request.command.get() == CMD_WRITE;
        let is_load =
            self.is_filled && request.command.get() == CMD_READ && request.length_bytes.get() == 4096;
        if is_load && !self.is_loaded {
            self.loads.push(Recording { before_ns: self.answered_ns, ..Recording::default() });
        }
        if let Some(load) = self.loads.last_mut().filter(|_| self.is_loaded && !is_load) {
            load.after_ns = came_ns;
        }
        self.is_loaded = is_load;
        is_load
    }

    /// Whether the load is to meet its stall.
    fn is_due(&self, at_ns: u64) -> bool {
        self.loads.last().is_some_and(|load| {
            let begun_ns = load.served.first().map_or(at_ns, |first| first.came_ns);
            load.stall_ns.is_none() && at_ns - begun_ns >= STALL_AFTER_NS
        })
    }
}

/// Serves a connection: one thread takes requests with the time at which they came, the other answers them in turn.
fn serve(mut stream: UnixStream, offer: &Offer, record: &Mutex<Record>) {
    if !handshake(&mut stream, offer) {
        return;
    }
    let mut answers = stream.try_clone().unwrap();
    let (sender, requests) = mpsc::channel::<(Request, Vec<u8>, u64)>();
    let taking = std::thread::spawn(move || {
        while let Some((request, data)) = request(&mut stream) {
            if sender.send((request, data, now_ns())).is_err() {
                return;
            }
        }
    });
    let mut bytes = vec![0; offer.size_bytes as usize];
    for (request, data, came_ns) in requests {
        let (handle, offset) = (request.handle.get(), request.offset_bytes.get());
        let range = offset as usize..offset as usize + request.length_bytes.get() as usize;
        let is_load = record.lock().unwrap().note(&request, came_ns);
        if is_load {
            std::thread::sleep(SERVICE);
            let from_ns = now_ns();
            if record.lock().unwrap().is_due(from_ns) {
                std::thread::sleep(STALL);
                record.lock().unwrap().loads.last_mut().unwrap().stall_ns = Some((from_ns, now_ns()));
            }
        }
        let reply = match request.command.get() {
            CMD_READ => read_reply(offer.structured, handle, offset, &bytes[range]),
            command => {
                if command == CMD_WRITE {
                    bytes[range].copy_from_slice(&data);
                }
                SimpleReply::new(0, handle).as_bytes().to_vec()
            }
        };
        let mut record = record.lock().unwrap();
        record.answered_ns = now_ns();
        if is_load {
            let served = Served { came_ns, answered_ns: record.answered_ns };
            record.loads.last_mut().unwrap().served.push(served);
        }
        drop(record);
        if answers.write_all(&reply).is_err() {
            break;
        }
    }
    taking.join().unwrap();
}

/// What a load can have seen, by the server's record.
struct Bounds<'a> {
    load: &'a Recording,
    /// Its clock showed 0 within this.
    zero_ns: Range<u64>,
    measured_ns: u64,
}

impl<'a> Bounds<'a> {
    /// For the seconds of a run; `begun`: when the whole run began.
    fn of(load: &'a Recording, rows: &[&SecondRow], run: &RunRow, begun_ns: u64) -> Self {
        let told_ns = begun_ns + rows[0].since_start_ns;
        let zero_ns = (told_ns.saturating_sub(CLOCKS_NS)).max(load.before_ns)
            ..(told_ns + CLOCKS_NS).min(load.served[0].came_ns);
        assert!(!zero_ns.is_empty(), "the first second begins at {told_ns}: {zero_ns:?}");
        for (second, row) in rows.iter().enumerate() {
            assert_eq!(row.since_start_ns - rows[0].since_start_ns, second as u64 * SECOND_NS);
        }
        Self { load, zero_ns, measured_ns: run.measured_ns.unwrap() }
    }

    /// By when a request had completed at the latest: then another one came in its place.
    fn completed_ns(&self, number: usize) -> u64 {
        self.load.served.get(number + DEPTH).map_or(self.load.after_ns, |other| other.came_ns)
    }

    /// The shortest and the longest that it can have taken.
    fn latency_ns(&self, number: usize) -> (u64, u64) {
        let served = &self.load.served[number];
        let room_ns = number.checked_sub(DEPTH).map(|other| self.load.served[other].answered_ns);
        let longest_ns = self.completed_ns(number) - room_ns.unwrap_or(self.load.before_ns);
        (served.answered_ns - served.came_ns, longest_ns)
    }

    /// Whether it must have completed in this part of the measured time, and whether it may have.
    fn is_in(&self, number: usize, part_ns: &Range<u64>) -> (bool, bool) {
        let (from_ns, to_ns) = (self.load.served[number].answered_ns, self.completed_ns(number));
        let must = from_ns >= self.zero_ns.end + part_ns.start && to_ns < self.zero_ns.start + part_ns.end;
        let may = to_ns >= self.zero_ns.start + part_ns.start && from_ns < self.zero_ns.end + part_ns.end;
        (must, may)
    }

    /// Whether the seconds are what the server saw.
    fn check(&self, rows: &[&SecondRow]) -> Result<(), String> {
        for (second, row) in rows.iter().enumerate() {
            let from_ns = second as u64 * SECOND_NS;
            let part_ns = from_ns..(from_ns + SECOND_NS).min(self.measured_ns);
            let (mut must, mut may) = ((0, 0), (0, 0));
            for number in 0..self.load.served.len() {
                let (is_sure, is_possible) = self.is_in(number, &part_ns);
                let (shortest_ns, longest_ns) = self.latency_ns(number);
                if is_sure {
                    must = (must.0 + 1, must.1.max(shortest_ns));
                }
                if is_possible {
                    may = (may.0 + 1, may.1.max(longest_ns));
                }
            }
            let longest_ns = row.latency_max_ns.unwrap_or(0);
            if !(must.0..=may.0).contains(&row.operations) || !(must.1..=may.1).contains(&longest_ns) {
                return Err(format!("second {second}: {row:?}, and from {must:?} to {may:?} were seen"));
            }
        }
        Ok(())
    }

    /// How many must have taken so long in the measured time, and how many can have.
    fn longer(&self, than_ns: u64, latency_ns: impl Fn(usize) -> (u64, u64)) -> (u64, u64) {
        let (mut must, mut may) = (0, 0);
        for number in 0..self.load.served.len() {
            let (is_sure, is_possible) = self.is_in(number, &(0..self.measured_ns));
            let (shortest_ns, longest_ns) = latency_ns(number);
            must += u64::from(is_sure && shortest_ns >= than_ns);
            // Three digits of a latency are kept.
            may += u64::from(is_possible && longest_ns >= than_ns / 500 * 499);
        }
        (must, may)
    }
}

/// Samples from there on.
fn counted(histogram: &Histogram<u64>, from_ns: u64) -> u64 {
    histogram.count_between(from_ns, u64::MAX)
}

#[test]
fn a_stall_of_the_device_is_in_its_second_and_in_what_queued() {
    if support::lacks_io_uring() {
        return;
    }
    // Sockets have short names.
    let there = tempfile::tempdir().unwrap();
    let record = Arc::new(Mutex::new(Record::default()));
    let offer = Offer { size_bytes: 16 << 20, ..Offer::default() };
    let server = Server::start(there.path(), {
        let record = Arc::clone(&record);
        move |stream| serve(stream, &offer, &record)
    });
    let uri = server.uri();
    let plan = words(
        "--destroy disk:16777216 --workload randread-4k --queue-depth 4 --load 50 --seconds 4 --warmup 0 --repeats 1 \
         --span 8388608 --seed 5 --out out",
    );
    let output = run_in(there.path(), &[&["run", "--device", &uri][..], &plan].concat());
    // On a busy machine the open load is begun late, and does not count.
    expect(&output, if output.status.code() == Some(2) { 2 } else { 0 });
    let data = RunData::read(&there.path().join("out")).unwrap();
    let loads = std::mem::take(&mut record.lock().unwrap().loads);
    assert_eq!((data.runs.len(), loads.len()), (2, 2));
    let begun_ns = from_rfc3339(&data.manifest.started_utc).unwrap();
    let begun_ns = begun_ns.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    for (run, load) in data.runs.iter().zip(&loads) {
        let rows: Vec<&SecondRow> = data.seconds.iter().filter(|row| row.run == run.run).collect();
        assert_eq!(rows.len(), 4);
        let bounds = Bounds::of(load, &rows, run, begun_ns);
        // Seconds without it have no such latency.
        assert_eq!(bounds.check(&rows), Ok(()), "{}", run.phase);
        // The one that was about to be answered has it whole.
        let (from_ns, to_ns) = load.stall_ns.expect("a stall");
        let held = load.served.iter().position(|served| served.answered_ns >= to_ns).unwrap();
        let completed_ns = to_ns..bounds.completed_ns(held);
        assert!(completed_ns.end < bounds.zero_ns.start + bounds.measured_ns, "it outlasted the load");
        let seconds = (completed_ns.start - bounds.zero_ns.end) / SECOND_NS
            ..=(completed_ns.end - bounds.zero_ns.start) / SECOND_NS;
        let shows = |row: &&&SecondRow| {
            seconds.contains(&row.second.into()) && row.latency_max_ns >= Some(to_ns - from_ns)
        };
        assert!(rows.iter().any(|row| shows(&row)), "{seconds:?}: {rows:?}");
        // The control: the same, a second later or earlier.
        for by in [1, 3] {
            let mut shifted: Vec<SecondRow> = rows.iter().map(|row| (*row).clone()).collect();
            shifted.rotate_right(by);
            let shifted: Vec<&SecondRow> = shifted.iter().collect();
            assert!(bounds.check(&shifted).is_err(), "shifted by {by}: {shifted:?}");
        }
        // Of the service, what was in flight; of what was intended, all that was to begin meanwhile.
        let half_ns = (to_ns - from_ns) / 2;
        let histograms = &data.histograms[&run.run];
        let service = counted(histograms.read.as_ref().unwrap(), half_ns);
        let (must, may) = bounds.longer(half_ns, |number| bounds.latency_ns(number));
        assert!((must..=may).contains(&service) && must > 0, "{}: {service} of {must} to {may}", run.phase);
        println!("{}: {service} took half of the stall or longer, by the record {must} to {may}", run.phase);
        if run.phase == "measure" {
            assert!(histograms.read_intended.is_none());
            continue;
        }
        let closed = &data.runs[0];
        let capacity = closed.operations.unwrap() as f64 * 1e9 / closed.measured_ns.unwrap() as f64;
        let arrival = Workload::from_name("randread-4k").unwrap().arrival();
        let mut schedule = Schedule::new(arrival, capacity * 50.0 / 100.0, run.seed);
        let due_ns: Vec<u64> = load.served.iter().map(|_| schedule.next_ns()).collect();
        let intended = counted(histograms.read_intended.as_ref().unwrap(), half_ns);
        let (must, may) = bounds.longer(half_ns, |number| {
            let least_ns = bounds.zero_ns.end + due_ns[number];
            let most_ns = bounds.zero_ns.start + due_ns[number];
            let answered_ns = load.served[number].answered_ns;
            (answered_ns.saturating_sub(least_ns), bounds.completed_ns(number).saturating_sub(most_ns))
        });
        assert!((must..=may).contains(&intended) && must > 0, "{intended} of {must} to {may}");
        println!("intended: {intended}, by the record {must} to {may}");
        let queued = (0..load.served.len()).filter(|number| {
            let due_ns = bounds.zero_ns.end + due_ns[*number];
            (from_ns..=to_ns - half_ns).contains(&due_ns) && bounds.is_in(*number, &(0..bounds.measured_ns)).0
        });
        assert!(intended >= queued.count() as u64, "all that were due in the first half of it have waited");
    }
}

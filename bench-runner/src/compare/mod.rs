//! `compare`: what has changed from one run to another.
//!
//! Arms are matched by name, values by everything that they depend on (workload, request, depth, load, chain, phase,
//! operation). The unit is the block. Where another arm that does the same I/O without the arm's code ran in the same
//! blocks of both runs, the verdict is on the values divided by it, so that a machine that was slower on another day
//! makes nothing worse (docs/decisions/0030). Nothing is compared silently that differs in more than what is compared.

mod facts;
pub mod noise;
mod pairs;
pub mod quantity;
mod side;
mod tell;

use std::collections::BTreeSet;

use crate::cli::CompareOptions;
use crate::failure::{EXIT_INVALID_RUN, EXIT_OK, EXIT_REGRESSION, Failure};
use crate::stats::ranks;
use crate::stats::verdict::{Measure, Verdict, judge};
use noise::AGAIN;

pub use facts::Difference;
pub(crate) use facts::differences;
pub(crate) use pairs::{BARE, estimate};
pub use pairs::{Estimate, Pairing, estimate_paired, estimate_unpaired};
pub use quantity::Quantity;
pub use side::{BlockValue, Cell, Series, Side};

/// One quantity of one cell, compared.
#[derive(Clone, Debug)]
pub struct Line {
    /// The arm in A and in B.
    pub arms: (String, String),
    /// What else it is of.
    pub cell: Cell,
    /// What is compared.
    pub quantity: Quantity,
    /// How blocks belong together.
    pub pairing: Pairing,
    /// The ratio B/A as measured.
    pub plain: Estimate,
    /// The same with each value divided by the reference's in its block, and the reference's name.
    pub normalised: Option<(Estimate, &'static str)>,
    /// Probability under chance alone of the ratio that is judged, after Holm over the cell's quantities.
    pub p_holm: f64,
    /// The test that it is of.
    pub test: &'static str,
    /// The noise, with the arm that showed it.
    pub noise: Option<(f64, String)>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Blocks whose load was not steady, of A and B: they are in no ratio.
    pub unsteady: (usize, usize),
}

impl Line {
    /// Whether it tells of the machine alone.
    pub fn is_of_the_machine(&self) -> bool {
        pairs::is_of_the_machine(&self.arms.0) && pairs::is_of_the_machine(&self.arms.1)
    }

    /// The ratio that is judged.
    pub fn judged(&self) -> &Estimate {
        self.normalised.as_ref().map_or(&self.plain, |(estimate, _)| estimate)
    }
}

/// Something that both sides have and that cannot be compared.
#[derive(Clone, Debug)]
pub struct Left {
    /// The arm in A and in B.
    pub arms: (String, String),
    /// What else it is of.
    pub cell: Cell,
    /// What was to be compared; `None` for all of the cell.
    pub quantity: Option<Quantity>,
    /// Why it cannot be.
    pub reason: String,
    /// Whether it is because no block counts.
    pub is_invalid: bool,
}

/// Two runs, compared.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What has to be known before the figures.
    pub warnings: Vec<String>,
    /// Facts of device, environment and method in which the runs differ.
    pub differences: Vec<Difference>,
    /// What was compared.
    pub lines: Vec<Line>,
    /// What could not be.
    pub left: Vec<Left>,
}

impl Comparison {
    /// How many lines have the verdict, without those of the machine.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().filter(|line| line.verdict == verdict && !line.is_of_the_machine()).count()
    }

    /// 1 where anything but the machine is worse, 2 where nothing could be compared.
    pub fn exit_code(&self) -> i32 {
        if self.lines.is_empty() {
            EXIT_INVALID_RUN
        } else if self.count(Verdict::Worse) > 0 {
            EXIT_REGRESSION
        } else {
            EXIT_OK
        }
    }
}

/// The command.
///
/// # Errors
/// A folder is missing, in parts or altogether, or of another version; A and B have nothing in common.
pub fn tell(options: &CompareOptions) -> Result<i32, Failure> {
    let (a, b) = (Side::read(&options.a)?, Side::read(&options.b)?);
    let noise = options.noise.as_deref().map(Side::read).transpose()?;
    let comparison = compare(&a, &b, noise.as_ref(), &Choice::of(options)?)?;
    if options.json {
        println!("{}", tell::object(&comparison, &a, &b));
    } else {
        print!("{}", tell::text(&comparison, &a, &b));
    }
    Ok(comparison.exit_code())
}

/// What is to be compared.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The quantities; what is compared by default if none is named.
    pub quantities: Vec<Quantity>,
    /// Names of arms in A and in B; all that both have if none is named.
    pub arms: Vec<(String, String)>,
}

impl Choice {
    fn of(options: &CompareOptions) -> Result<Self, Failure> {
        let quantities: Result<Vec<Quantity>, Failure> = options
            .metric
            .iter()
            .map(|name| {
                Quantity::from_name(name).ok_or_else(|| {
                    let names: Vec<&str> = quantity::ALL.iter().map(|quantity| quantity.name).collect();
                    Failure::usage(format!("unknown metric {name:?}; there are: {}", names.join(", ")))
                })
            })
            .collect();
        let pair = |name: &String| match name.split_once('=') {
            Some((a, b)) => (a.to_owned(), b.to_owned()),
            None => (name.clone(), name.clone()),
        };
        Ok(Choice { quantities: quantities?, arms: options.arm.iter().map(pair).collect() })
    }

    fn arms(&self, a: &Side, b: &Side) -> Result<Vec<(String, String)>, Failure> {
        if self.arms.is_empty() {
            // What is measured again says how large the noise is; it is no arm of its own.
            let names = a.arms().into_iter().filter(|name| !name.ends_with(AGAIN) && b.arms().contains(name));
            return Ok(names.map(|name| (name.to_owned(), name.to_owned())).collect());
        }
        for (name, side, letter) in self.arms.iter().flat_map(|(one, two)| [(one, a, "A"), (two, b, "B")]) {
            if !side.arms().contains(name.as_str()) {
                let names: Vec<&str> = side.arms().into_iter().collect();
                return Err(Failure::usage(format!(
                    "{letter} ({}) has no arm {name:?}; it has: {}",
                    side.name,
                    names.join(", ")
                )));
            }
        }
        Ok(self.arms.clone())
    }

    fn quantities(&self) -> Vec<Quantity> {
        match self.quantities.is_empty() {
            true => quantity::ALL.into_iter().filter(|quantity| quantity.by_default).collect(),
            false => self.quantities.clone(),
        }
    }
}

/// Compares B with A.
///
/// # Errors
/// They have no arm and cell in common, or an arm that is named is missing.
pub fn compare(a: &Side, b: &Side, noise: Option<&Side>, choice: &Choice) -> Result<Comparison, Failure> {
    let mut comparison = Comparison::default();
    comparison.warnings.extend(facts::of_one("A", a));
    comparison.warnings.extend(facts::of_one("B", b));
    let same_folder = a.path == b.path;
    if same_folder && choice.arms.is_empty() {
        comparison.warnings.push("A and B are one folder: name two arms of it with --arm X=Y".to_owned());
    }
    if let (Some(one), Some(two)) = (&a.manifest, &b.manifest) {
        comparison.differences = facts::differences(one, two, &|field| facts::OF_THE_PLAN.contains(&field));
    }
    let plans_agree = match (&a.manifest, &b.manifest) {
        (Some(one), Some(two)) => facts::plans_agree(one, two),
        _ => false,
    };
    let noise_sides: Vec<&Side> = match noise {
        Some(noise) => {
            comparison.warnings.extend(facts::of_one("noise", noise));
            vec![noise]
        }
        None => vec![a, b],
    };
    let context = Context { a, b, noise_sides, same_folder, plans_agree };
    let mut seen = BTreeSet::new();
    for arms in choice.arms(a, b)? {
        let (cells_a, cells_b) = (cells(a, &arms.0), cells(b, &arms.1));
        for cell in cells_a.intersection(&cells_b).filter(|cell| is_told(cell, &cells_a)) {
            seen.insert(cell.workload.clone());
            context.cell(&arms, cell, &choice.quantities(), &mut comparison);
        }
        for (letter, only, other) in [("A", &cells_a, &cells_b), ("B", &cells_b, &cells_a)] {
            let names: BTreeSet<String> = only.difference(other).map(|cell| tell::place(cell)).collect();
            if !names.is_empty() {
                let names: Vec<String> = names.into_iter().collect();
                comparison.warnings.push(format!("{} only in {letter}: {}", arms.0, names.join("; ")));
            }
        }
    }
    if comparison.lines.is_empty() && comparison.left.is_empty() {
        return Err(Failure::usage(format!(
            "{} and {} have no arm, workload and depth in common with a metric that is asked for: compare two runs of the \
             same plan, or name arms with --arm X=Y",
            a.name, b.name
        )));
    }
    let is_other =
        |line: &&Line| matches!(line.verdict, Verdict::Better | Verdict::Worse) && line.is_of_the_machine();
    if let Some(line) = comparison.lines.iter().find(is_other) {
        comparison.warnings.push(format!(
            "the machine itself is another: {} is {} at {} ({}); that is in no count below",
            line.arms.0,
            line.verdict.name(),
            tell::place(&line.cell),
            line.quantity.name
        ));
    }
    if !comparison.lines.is_empty() && comparison.lines.iter().all(|line| line.noise.is_none()) {
        comparison.warnings.push(
            "A/A noise is not known, so that 2 % counts as an effect: measure it with `run --a-a` and pass --noise"
                .to_owned(),
        );
    }
    Ok(comparison)
}

fn cells<'a>(side: &'a Side, arm: &str) -> BTreeSet<&'a Cell> {
    side.cells().into_iter().filter(|(name, _)| *name == arm).map(|(_, cell)| cell).collect()
}

/// Reads and writes by themselves only where there are both: else `all` says the same.
fn is_told(cell: &Cell, cells: &BTreeSet<&Cell>) -> bool {
    let has = |op: &str| cells.contains(&Cell { op: op.to_owned(), ..(*cell).clone() });
    cell.op == "all" || cell.op == "flush" || (has("read") && has("write")) || !has("all")
}

struct Context<'a> {
    a: &'a Side,
    b: &'a Side,
    noise_sides: Vec<&'a Side>,
    same_folder: bool,
    plans_agree: bool,
}

impl Context<'_> {
    /// Compares all quantities of a cell: they are judged together.
    fn cell(
        &self,
        (arm_a, arm_b): &(String, String),
        cell: &Cell,
        quantities: &[Quantity],
        comparison: &mut Comparison,
    ) {
        let (a, b) = (self.a, self.b);
        let mut leave = |quantity: Option<Quantity>, reason: String, is_invalid: bool| {
            let arms = (arm_a.clone(), arm_b.clone());
            comparison.left.push(Left { arms, cell: cell.clone(), quantity, reason, is_invalid });
        };
        for (side, arm, letter) in [(a, arm_a, "A"), (b, arm_b, "B")] {
            if !side.has_valid(arm, cell) {
                let reasons = side.why_invalid(arm, cell).join("; ");
                return leave(None, format!("no block of {letter} counts: {reasons}"), true);
            }
        }
        let unsteady = (a.unsteady(arm_a, cell), b.unsteady(arm_b, cell));
        let mut found = Vec::new();
        for quantity in quantities {
            if !a.has_rows(arm_a, cell, quantity) || !b.has_rows(arm_b, cell, quantity) {
                continue;
            }
            let (mut of_a, mut of_b) = (a.series(arm_a, cell, quantity), b.series(arm_b, cell, quantity));
            if of_a.is_empty() || of_b.is_empty() {
                let letter = if of_a.is_empty() { "A" } else { "B" };
                leave(Some(*quantity), format!("not measured in {letter}, or by too few samples"), false);
                continue;
            }
            let pairing = Pairing::of(&of_a, &of_b, self.same_folder, self.plans_agree);
            of_a.retain(|block, _| !unsteady.0.contains(block));
            of_b.retain(|block, _| !unsteady.1.contains(block));
            if of_a.is_empty() || of_b.is_empty() {
                let letter = if of_a.is_empty() { "A" } else { "B" };
                let reason = format!(
                    "not ranked: in no block of {letter} was the load steady; see `run --until-steady`"
                );
                leave(Some(*quantity), reason, false);
                continue;
            }
            let seed = a.manifest.as_ref().map_or(1, |manifest| manifest.seed);
            let Some(plain) = pairs::estimate(pairing, &of_a, &of_b, seed) else {
                leave(Some(*quantity), "a value is 0, or no block is in both".to_owned(), false);
                continue;
            };
            let normalised = self.reference((arm_a, arm_b), cell).and_then(|reference| {
                let divided = |side: &Side, series: &Series| {
                    pairs::normalised(series, &side.series(reference, cell, quantity))
                };
                let estimate = pairs::estimate(pairing, &divided(a, &of_a), &divided(b, &of_b), seed)?;
                // A reference that counts in few blocks only would take the others' away.
                (estimate.blocks == plain.blocks).then_some((estimate, reference))
            });
            found.push((*quantity, pairing, seed, plain, normalised));
        }
        let judged: Vec<Estimate> = found
            .iter()
            .map(|(.., plain, normalised)| normalised.as_ref().map_or(*plain, |(estimate, _)| *estimate))
            .collect();
        let together = found.len();
        let (chances, tests): (Vec<f64>, Vec<&str>) =
            judged.iter().zip(&found).map(|(estimate, found)| estimate.chance(together, found.1)).unzip();
        let adjusted = ranks::holm(&chances);
        for (((quantity, pairing, seed, plain, normalised), estimate), (p_holm, test)) in
            found.into_iter().zip(judged).zip(adjusted.into_iter().zip(tests))
        {
            let noise = self
                .noise_sides
                .iter()
                .filter_map(|side| {
                    let of = |twice: &noise::Twice| twice.noise(pairing, estimate.blocks, together, seed);
                    noise::of_arm(side, arm_a, cell, &quantity, normalised.is_some(), of)
                })
                .max_by(|one, two| one.1.total_cmp(&two.1))
                .map(|(arm, noise)| (noise, arm.to_owned()));
            let measure = Measure {
                more_is_better: quantity.more_is_better,
                half_width: quantity.half_width(),
                noise: noise.as_ref().map(|(noise, _)| *noise),
                p_holm,
            };
            let (verdict, reason) = judge(&estimate.ratio, &measure);
            comparison.lines.push(Line {
                arms: (arm_a.clone(), arm_b.clone()),
                cell: cell.clone(),
                quantity,
                pairing,
                plain,
                normalised,
                p_holm,
                test,
                noise,
                verdict,
                reason,
                unsteady: (unsteady.0.len(), unsteady.1.len()),
            });
        }
    }

    /// The arm that both are divided by. Within one folder the blocks themselves are paired already.
    fn reference(&self, (arm_a, arm_b): (&str, &str), cell: &Cell) -> Option<&'static str> {
        if self.same_folder {
            return None;
        }
        let reference = pairs::reference_of(self.a, arm_a, cell)?;
        (pairs::reference_of(self.b, arm_b, cell) == Some(reference)).then_some(reference)
    }
}

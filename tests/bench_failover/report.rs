//! The tables and `target/bench/failover.json`.

use std::{fs, time::Duration};

use anyhow::Result;
use serde::Serialize;
use testkit::directory::repository;

use crate::{
    series::Run,
    stage::{PROBES, RATE},
    stats::Distribution,
    steps::STEPS,
};

/// What is to be reached.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Target {
    /// For half and for 99 of 100, in milliseconds.
    MedianAndP99(f64, f64),
    /// For all.
    Max(f64),
    /// Measured to be known.
    None,
}

impl Target {
    fn limits(self, found: &Distribution) -> Vec<(&'static str, f64, f64)> {
        match self {
            Self::None => Vec::new(),
            Self::Max(limit) => vec![("max", found.max, limit)],
            Self::MedianAndP99(median, p99) => vec![("median", found.median, median), ("p99", found.p99, p99)],
        }
    }

    fn is_reached_by(self, found: &Distribution) -> bool {
        self.limits(found).iter().all(|(_, value, limit)| value <= limit)
    }

    fn compared_with(self, found: &Distribution) -> Option<String> {
        let words = self.limits(found).into_iter().map(|(what, value, limit)| {
            let word = if value <= limit { "reached" } else { "MISSED" };
            format!("{what} {} ≤ {}: {word}", ms(value), ms(limit))
        });
        let words = words.collect::<Vec<_>>().join(", ");
        (!words.is_empty()).then_some(words)
    }
}

/// All runs of one kind.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What happened.
    pub title: &'static str,
    /// The same where there is little room.
    #[serde(skip)]
    pub short: &'static str,
    /// What is to be reached.
    pub target: Target,
    /// What was measured.
    pub runs: Vec<Run>,
    /// Runs of which nothing was measured, and why.
    pub failed: Vec<String>,
}

#[derive(Serialize)]
struct File<'a> {
    probes: u64,
    events_per_second_of_each: u64,
    load_before_and_after: [String; 2],
    stock_lost_node_ms: Option<f64>,
    step_names: [&'static str; 7],
    rows: Vec<RowInFile<'a>>,
}

#[derive(Serialize)]
struct RowInFile<'a> {
    title: &'static str,
    target: Target,
    outage_ms: Option<Distribution>,
    undisturbed_outage_ms: Option<Distribution>,
    median_steps_ms: [Option<f64>; 7],
    runs: &'a [Run],
    failed: &'a [String],
}

impl Row {
    fn outages(&self) -> Option<Distribution> {
        Distribution::of(self.runs.iter().map(|run| run.outage_ms))
    }

    fn undisturbed(&self) -> Option<Distribution> {
        Distribution::of(self.runs.iter().filter(|run| run.undisturbed).map(|run| run.outage_ms))
    }

    fn median_steps(&self) -> [Option<f64>; 7] {
        std::array::from_fn(|step| {
            Distribution::of(self.runs.iter().filter_map(|run| run.steps.0[step])).map(|found| found.median)
        })
    }

    /// In words, how the numbers compare with what is to be reached, and what took the time where they miss it.
    fn verdict(&self) -> Option<String> {
        let found = self.outages()?;
        let words = self.target.compared_with(&found)?;
        if self.target.is_reached_by(&found) {
            return Some(words);
        }
        let because = self.what_took_the_time();
        let quiet = self.undisturbed().filter(|quiet| quiet.runs < found.runs);
        let quiet = quiet.and_then(|quiet| self.target.compared_with(&quiet));
        let lines = [Some(words), because, quiet.map(|quiet| format!("undisturbed: {quiet}"))];
        Some(
            lines
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\n                        "),
        )
    }

    fn what_took_the_time(&self) -> Option<String> {
        let slowest = self.runs.iter().max_by(|a, b| a.outage_ms.total_cmp(&b.outage_ms))?;
        if !slowest.steps.answers_a_fault() {
            return Some(
                "all of it passes between the end of a probe's session and its next acknowledgement".to_owned(),
            );
        }
        let (step, took) = slowest.steps.longest()?;
        let usual = self.median_steps()[step].unwrap_or_default();
        let disturbed = if slowest.undisturbed {
            ""
        } else {
            "; others changed Services meanwhile"
        };
        Some(format!(
            "in the slowest run \"{}\" took {}, usually {}{disturbed}",
            STEPS[step],
            ms(took),
            ms(usual)
        ))
    }
}

/// Prints the tables.
pub fn print(rows: &[Row], stock: Option<Duration>, network_timeout: Duration) {
    println!("\nOutage: the longest time that any of {PROBES} probes was without an acknowledgement, in ms\n");
    println!(
        "  {:<22}{:>6}{:>9}{:>9}{:>9}{:>9}{:>9}{:>13}",
        "", "runs", "min", "median", "p90", "p99", "max", "undisturbed"
    );
    for row in rows {
        let Some(found) = row.outages() else { continue };
        let quiet = row.undisturbed().map_or(0, |found| found.runs);
        println!(
            "  {:<22}{:>6}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{quiet:>13}",
            row.title, found.runs, found.min, found.median, found.p90, found.p99, found.max
        );
    }
    println!(
        "\n  Each probe sends every {} ms and tries to connect every 10 ms; the pause before the fault is in the outage.\n  \
         For the node that is cut off they have a NetworkTimeout of {} s, without which nobody notices a silent session, and give\n  \
         up connecting after half a second: what is silent is noticed in steps of that.",
        1000 / RATE,
        network_timeout.as_secs()
    );
    for row in rows {
        let (Some(all), Some(quiet)) = (row.outages(), row.undisturbed()) else {
            continue;
        };
        if quiet.runs < all.runs {
            println!(
                "  Others changed Services during {} runs \"{}\"; without these: median {:.0} ms, max {:.0} ms.",
                all.runs - quiet.runs,
                row.title,
                quiet.median,
                quiet.max
            );
        }
    }

    println!("\nWhere the time went: medians of each step, in ms\n");
    print!("  {:<31}", "");
    for row in rows {
        print!("{:>14}", row.short);
    }
    println!();
    for (step, name) in STEPS.iter().enumerate() {
        print!("  {name:<31}");
        for row in rows {
            let text = row.median_steps()[step].map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
            print!("{text:>14}");
        }
        println!();
    }

    println!(
        "\n  From \"seen\" to \"EndpointSlices\" as the operator's log tells, acknowledgements as the probes report. \"To first\n  \
         acknowledgement\" is kube-proxy's work, and then a probe's connect and login. A side that is left in order, by a failback\n  \
         or because its pod is deleted, serves on until kube-proxy is through; its probes' outage is a reconnect."
    );

    println!("\nTo reach\n");
    for row in rows {
        if !row.failed.is_empty() {
            println!(
                "  {:<22}{} runs FAILED, such as: {}",
                row.title,
                row.failed.len(),
                row.failed[0]
            );
        }
        if let Some(verdict) = row.verdict() {
            println!("  {:<22}{verdict}", row.title);
        }
    }
    if let Some(stock) = stock {
        let node = rows
            .iter()
            .find(|row| row.title == "node cut off")
            .and_then(Row::outages);
        let ratio = node.map(|node| {
            format!(
                ": {:.0} times the median here",
                stock.as_secs_f64() * 1000.0 / node.median
            )
        });
        println!(
            "\n  Stock Kubernetes takes the endpoint of a lost node from a plain Service after {:.1} s{}.",
            stock.as_secs_f64(),
            ratio.unwrap_or_default()
        );
    }
}

/// Writes the file.
pub fn write(rows: &[Row], stock: Option<Duration>, load: [String; 2]) -> Result<()> {
    let file = File {
        probes: PROBES,
        events_per_second_of_each: RATE,
        load_before_and_after: load,
        stock_lost_node_ms: stock.map(|stock| stock.as_secs_f64() * 1000.0),
        step_names: STEPS,
        rows: rows
            .iter()
            .map(|row| RowInFile {
                title: row.title,
                target: row.target,
                outage_ms: row.outages(),
                undisturbed_outage_ms: row.undisturbed(),
                median_steps_ms: row.median_steps(),
                runs: &row.runs,
                failed: &row.failed,
            })
            .collect(),
    };
    let directory = repository().join("target/bench");
    fs::create_dir_all(&directory)?;
    fs::write(
        directory.join("failover.json"),
        serde_json::to_string_pretty(&file)? + "\n",
    )?;
    Ok(())
}

fn ms(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.1} s", value / 1000.0)
    } else {
        format!("{value:.0} ms")
    }
}

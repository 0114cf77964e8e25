//! Results as JSON, as printed lines and as a CSV table.

use std::fmt::Write as _;

use serde_json::json;
use skipstone::math::schedule::Time;
use skipstone::objective::Elbo;
use skipstone::objective::likelihood::{Flowed, bits_per_dim, standard_error};

use super::{Report, Task};

impl Task<'_> {
    /// The bound, term by term.
    pub(super) fn report_elbo(&self, found: &Elbo, sigma_1: f64) -> Report {
        let bits = |nats: f64| nats / (found.dims as f64 * std::f64::consts::LN_2);
        let row = |term: &skipstone::objective::ElboTerm| {
            json!({
                "t": term.t.index(), "s": term.s.index(), "bits": bits(term.nats),
                "squared_error": term.squared_error / found.dims as f64,
            })
        };
        let error = found.standard_error();
        let json = json!({
            "bits_per_dim": found.bits_per_dim(), "standard_error": error, "method": "elbo", "n": self.data.len(),
            "data": self.name(), "calls": self.trajectory.calls(), "sigma_1": sigma_1,
            "prior_bits": bits(found.prior_nats), "terms": found.terms.iter().map(row).collect::<Vec<_>>(),
            "options": self.settings.to_json(),
        });
        let mut lines = vec!["      t      s   bits/dim  mean squared error of eps".to_owned()];
        let mut csv = "t,s,bits_per_dim,squared_error\n".to_owned();
        for term in &found.terms {
            let (t, s) = (index(term.t), index(term.s));
            let (bits, error) = (bits(term.nats), term.squared_error / found.dims as f64);
            lines.push(format!("{t:>7} {s:>6} {bits:>10.5} {error:>12.6}"));
            // Writing to a String cannot fail.
            let _ = writeln!(csv, "{t},{s},{bits},{error}");
        }
        lines.push(format!("data        {}", self.name()));
        lines.push(format!(
            "sampler     {}, {} network calls, sigma_1 = {sigma_1:.6}",
            self.settings.scale,
            self.trajectory.calls()
        ));
        let decoder = found.terms.last().map_or(0.0, |term| term.nats);
        let steps: f64 = found.terms.iter().map(|term| term.nats).sum::<f64>() - decoder;
        lines.push(format!(
            "parts       {:.5} prior, {:.5} steps, {:.5} decoder",
            bits(found.prior_nats),
            bits(steps),
            bits(decoder)
        ));
        lines.push(format!("at most     {:.4}{} bits per dimension", found.bits_per_dim(), plus_minus(error)));
        let points = found.terms.iter().rev().map(|term| (term.t.get() as u64 - 1, bits(term.nats)));
        Report { json, lines, csv_name: "terms.csv", csv, plot: Some(points.collect()) }
    }

    /// The likelihood of the deterministic sampler, image by image.
    pub(super) fn report_ode(&self, found: &Flowed) -> Report {
        let dims: usize = self.data.shape().iter().product();
        let images: Vec<f64> = found.means().iter().map(|&log| bits_per_dim(log, dims)).collect();
        let mean = images.iter().sum::<f64>() / images.len() as f64;
        let error = standard_error(&images);
        let probe_error = found.probe_error().map(|nats| nats / (dims as f64 * std::f64::consts::LN_2));
        let calls = 2 * self.trajectory.calls() * self.arguments.probes;
        let json = json!({
            "bits_per_dim": mean, "standard_error": error, "probe_error": probe_error, "method": "ode",
            "n": images.len(), "data": self.name(), "steps": self.trajectory.calls(), "calls": calls,
            "probes": self.arguments.probes, "probe": self.arguments.probe.to_string(), "times": self.settings.times,
            "model": self.settings.model, "seed": self.settings.seed,
        });
        let mut csv = "image,bits_per_dim\n".to_owned();
        for (i, bits) in images.iter().enumerate() {
            let _ = writeln!(csv, "{i},{bits}");
        }
        let share = match probe_error {
            Some(error) => format!("{error:.5} of it from the trace estimator"),
            None => "the trace estimator's share is unknown with one probe".to_owned(),
        };
        let lines = vec![
            format!("data        {}", self.name()),
            format!(
                "sampler     {} Heun steps, {calls} forward and backward passes, {} {} probe(s)",
                self.trajectory.calls(),
                self.arguments.probes,
                self.arguments.probe
            ),
            format!("about       {mean:.4}{} bits per dimension", plus_minus(error)),
            format!(
                "error       standard error over images, {share}; without discretisation (double --steps to see it)"
            ),
        ];
        Report { json, lines, csv_name: "images.csv", csv, plot: None }
    }
}

fn plus_minus(error: Option<f64>) -> String {
    error.map_or(String::new(), |error| format!(" ± {error:.4}"))
}

/// A timestep's network index, or "clean" for data, which has none.
fn index(time: Time) -> String {
    time.index().map_or("clean".to_owned(), |index| index.to_string())
}

//! What was found: figures in tables, goals with how far they are, curves as pictures, and all of it as JSON.

use std::{fmt::Write, fs, path::Path};

use anyhow::Context;
use hdrhistogram::Histogram;
use plotters::prelude::*;
use serde::Serialize;

#[derive(Default, Serialize)]
pub(crate) struct Report {
    /// The machine, and the versions of what ran.
    pub(crate) about: Vec<(String, String)>,
    figures: Vec<Figure>,
    goals: Vec<Goal>,
    curves: Vec<Curve>,
}

/// One measurement.
#[derive(Serialize)]
struct Figure {
    scenario: &'static str,
    subject: String,
    measure: String,
    unit: &'static str,
    value: f64,
}

/// A figure that something is demanded of.
#[derive(Serialize)]
struct Goal {
    what: String,
    value: f64,
    must: Bound,
    aim: Option<f64>,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Values along something that grows, both on logarithmic axes.
#[derive(Serialize)]
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

/// A histogram of microseconds, up to ten minutes.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

impl Report {
    pub(crate) fn figure(
        &mut self,
        scenario: &'static str,
        subject: impl Into<String>,
        measure: impl Into<String>,
        unit: &'static str,
        value: f64,
    ) {
        let figure = Figure {
            scenario,
            subject: subject.into(),
            measure: measure.into(),
            unit,
            value,
        };
        println!(
            "{:<10} {:<34} {:<30} {:>12} {}",
            figure.scenario,
            figure.subject,
            figure.measure,
            shown(value),
            unit
        );
        self.figures.push(figure);
    }

    /// The usual percentiles of times in microseconds, in milliseconds.
    pub(crate) fn times(
        &mut self,
        scenario: &'static str,
        subject: &str,
        what: &str,
        times: &Histogram<u64>,
    ) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let value = times.value_at_quantile(quantile) as f64 / 1000.0;
            self.figure(scenario, subject, format!("{what} {name}"), "ms", value);
        }
    }

    pub(crate) fn goal(&mut self, what: impl Into<String>, value: f64, must: Bound, aim: Option<f64>) {
        self.goals.push(Goal {
            what: what.into(),
            value,
            must,
            aim,
        });
    }

    pub(crate) fn curve(&mut self, curve: Curve) {
        self.curves.push(curve);
    }

    /// Prints the goals, and writes everything into a folder.
    pub(crate) fn finish(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        println!("\n{}", self.goals_table());
        fs::write(folder.join("figures.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join("figures.md"), self.markdown())?;
        for curve in &self.curves {
            let path = folder.join(format!("{}.svg", curve.name));
            draw(curve, &path).with_context(|| format!("{}", path.display()))?;
        }
        println!("written to {}", folder.display());
        Ok(())
    }

    fn goals_table(&self) -> String {
        let mut table = String::from("| must | measured | bound | aim | |\n|---|---|---|---|---|\n");
        for goal in &self.goals {
            let (bound, reached) = match goal.must {
                Bound::AtLeast(least) => (format!("at least {}", shown(least)), goal.value >= least),
                Bound::AtMost(most) => (format!("at most {}", shown(most)), goal.value <= most),
            };
            let aim = goal.aim.map(shown).unwrap_or_default();
            let reached = if reached { "reached" } else { "**not reached**" };
            writeln!(
                table,
                "| {} | {} | {bound} | {aim} | {reached} |",
                goal.what,
                shown(goal.value)
            )
            .expect("a string takes all");
        }
        table
    }

    fn markdown(&self) -> String {
        let mut text = String::from("| | |\n|---|---|\n");
        for (name, value) in &self.about {
            writeln!(text, "| {name} | {value} |").expect("a string takes all");
        }
        writeln!(text, "\n{}", self.goals_table()).expect("a string takes all");
        let mut scenario = "";
        for figure in &self.figures {
            if figure.scenario != scenario {
                scenario = figure.scenario;
                writeln!(text, "\n### {scenario}\n\n| | | |\n|---|---|--:|").expect("a string takes all");
            }
            writeln!(
                text,
                "| {} | {} | {} {} |",
                figure.subject,
                figure.measure,
                shown(figure.value),
                figure.unit
            )
            .expect("a string takes all");
        }
        text
    }
}

/// With as many digits as say something.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn draw(curve: &Curve, path: &Path) -> anyhow::Result<()> {
    let points = || curve.series.iter().flat_map(|(_, points)| points);
    let least = |pick: fn(&(f64, f64)) -> f64| points().map(pick).fold(f64::INFINITY, f64::min);
    let most = |pick: fn(&(f64, f64)) -> f64| points().map(pick).fold(0.0, f64::max);
    let (x, y) = (|point: &(f64, f64)| point.0, |point: &(f64, f64)| point.1);
    let root = SVGBackend::new(path, (720, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(curve.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (least(x)..most(x)).log_scale(),
            (least(y) / 2.0..most(y) * 2.0).log_scale(),
        )?;
    chart.configure_mesh().x_desc(curve.x).y_desc(curve.y).draw()?;
    for (index, (name, points)) in curve.series.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_is_missed_is_told() {
        let mut report = Report::default();
        report.goal("enough", 2.0, Bound::AtLeast(1.5), Some(2.5));
        report.goal("too much", 2.0, Bound::AtMost(1.5), None);
        let table = report.goals_table();
        assert!(
            table.contains("| enough | 2.00 | at least 1.50 | 2.50 | reached |"),
            "{table}"
        );
        assert!(
            table.contains("| too much | 2.00 | at most 1.50 |  | **not reached** |"),
            "{table}"
        );
    }
}

//! Sampling options as flags, generated from the library's table.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use serde_json::{Map, Value};
use skipstone::sampling::options::{Field, Kind, NOISE, Request, STEPS, Set, of};

use crate::failure::Usage;

/// The flag that reads a list of sigmas from a file instead of `--sigma`.
const SIGMAS: &str = "sigmas";

/// The options of `SET` that were given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags<const SET: Set> {
    given: Map<String, Value>,
    /// The numbers of `--steps`, which may be a list.
    steps: Option<Vec<Value>>,
    sigmas: Option<PathBuf>,
}

fn arg(field: &'static Field) -> Arg {
    let about = &field.about;
    let parser = if field.bit == STEPS {
        // `--steps` takes a list; commands with a single run refuse more than one number.
        ValueParser::new(|text: &str| text.split(',').map(|steps| field.parse(steps)).collect::<Result<Value, _>>())
    } else {
        ValueParser::new(|text: &str| field.parse(text))
    };
    let mut help = about.help.to_owned();
    match about.kind {
        Kind::Name(names) => help += &format!(" [possible values: {}]", names().join(", ")),
        Kind::NameOrText { names, such_as, .. } => {
            help += &format!(" [possible values: {}; or such as {such_as}]", names().join(", "));
        }
        _ => {}
    }
    if !about.default.is_empty() {
        help += &format!(" [default: {}]", about.default);
    }
    Arg::new(about.name)
        .long(about.flag())
        .value_name(about.value)
        .help(help)
        .value_parser(parser)
        // So that a wrong sign is refused by the option's name.
        .allow_negative_numbers(matches!(about.kind, Kind::Number(_) | Kind::Whole(_) | Kind::WholeOrWholes(_)))
        .allow_hyphen_values(matches!(about.kind, Kind::Wholes { .. } | Kind::Numbers { .. }))
        .conflicts_with_all(field.excludes)
}

impl<const SET: Set> Args for Flags<SET> {
    fn augment_args(command: Command) -> Command {
        let command = command.args(of(SET).map(arg));
        if SET & NOISE == 0 {
            return command;
        }
        let file = Arg::new(SIGMAS).long(SIGMAS).value_name("FILE").value_parser(value_parser!(PathBuf));
        let file = file.help("Text file with one sigma per network call, in step order; # starts a comment");
        command.arg(file.conflicts_with_all(["sigma", "eta"]))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const SET: Set> FromArgMatches for Flags<SET> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given =
            |field: &Field| Some((field.about.name.to_owned(), matches.get_one::<Value>(field.about.name)?.clone()));
        let mut given: Map<String, Value> = of(SET).filter_map(given).collect();
        let steps = match given.remove("steps") {
            Some(Value::Array(steps)) => Some(steps),
            _ => None,
        };
        let sigmas = if SET & NOISE == 0 { None } else { matches.get_one(SIGMAS).cloned() };
        Ok(Self { given, steps, sigmas })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const SET: Set> Flags<SET> {
    /// Whether any of these options was given.
    pub fn has_any(&self, names: &[&str]) -> bool {
        let file = self.sigmas.is_some();
        names.iter().any(|&name| match name {
            "steps" => self.steps.is_some(),
            name => self.given.contains_key(name) || file && name == "sigma",
        })
    }

    /// The file of `--sigmas`.
    pub fn file(&self) -> Option<&Path> {
        self.sigmas.as_deref()
    }

    /// The options as one request; an error if `--steps` is a list of several.
    pub fn request(&self) -> anyhow::Result<Request> {
        match <[Request; 1]>::try_from(self.requests(&[])?) {
            Ok([request]) => Ok(request),
            Err(_) => {
                Err(Usage("--steps: expected one number, found a list; this command makes a single run".to_owned())
                    .into())
            }
        }
    }

    /// The options as one request per number of steps: those of `--steps`, or those of `default` if neither `--steps`
    /// nor `--times` was given.
    pub fn requests(&self, default: &[usize]) -> anyhow::Result<Vec<Request>> {
        let mut fields = self.given.clone();
        if let Some(path) = &self.sigmas {
            fields.insert("sigma".to_owned(), sigmas(path)?.into());
        }
        let request = Request::take(&mut fields, SET)?;
        let steps: Vec<usize> = match &self.steps {
            Some(steps) => steps.iter().filter_map(|steps| usize::try_from(steps.as_u64()?).ok()).collect(),
            None if default.is_empty() || request.times.is_some() => return Ok(vec![request]),
            None => default.to_vec(),
        };
        Ok(steps.into_iter().map(|steps| Request { steps: Some(steps), ..request.clone() }).collect())
    }
}

fn sigmas(path: &Path) -> anyhow::Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.split('#').next().unwrap_or("").trim()));
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(i, line)| {
            let wrong = || Usage(format!("{}: line {i}: expected a number, found \"{line}\"", path.display()));
            line.parse().ok().filter(|sigma: &f64| sigma.is_finite()).ok_or_else(|| wrong().into())
        })
        .collect()
}

//! Which input is which: the images, their timesteps and their classes.

use std::str::FromStr;

use skipstone::error::{Error, Result};
use skipstone::io::image::parse_size;
use skipstone::io::onnx::{CLASSES_KEY, NULL_CLASS_KEY};

use crate::scan::{Element, Outline, Value};

/// Largest number of values of an image; its arrays stay below a gigabyte.
const MOST_VALUES: usize = 1 << 28;
/// Most images per call that a graph may ask for.
const MOST_ROWS: usize = 1 << 12;
/// Most classes.
const MOST_CLASSES: usize = 1_000_000;

/// What a user says about a graph, where it does not speak for itself: `sample=x,timestep=t,output=v`.
///
/// ```
/// let names: skipstone_onnx::Names = "sample=x,timestep=t,size=32x48".parse()?;
/// assert_eq!((names.sample.as_deref(), names.size), (Some("x"), Some([32, 48])));
/// assert!("image=x".parse::<skipstone_onnx::Names>().is_err());
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The input of the images.
    pub sample: Option<String>,
    /// The input of the timesteps.
    pub timestep: Option<String>,
    /// The input of the class labels.
    pub class: Option<String>,
    /// The output.
    pub output: Option<String>,
    /// Number of classes.
    pub classes: Option<usize>,
    /// The class that means "no class".
    pub null: Option<usize>,
    /// Channels, if the graph leaves them free.
    pub channels: Option<usize>,
    /// Height and width, if the graph leaves them free.
    pub size: Option<[usize; 2]>,
}

impl FromStr for Names {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut names = Self::default();
        for part in text.split(',') {
            let wrong = |what: &str| Error::argument(format!("onnx: \"{part}\": expected {what}"));
            let (key, value) =
                part.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(|| wrong("KEY=VALUE"))?;
            let number = || value.parse().ok().filter(|&n: &usize| n > 0).ok_or_else(|| wrong("a number"));
            match key {
                "sample" => names.sample = Some(value.to_owned()),
                "timestep" => names.timestep = Some(value.to_owned()),
                "class" => names.class = Some(value.to_owned()),
                "output" => names.output = Some(value.to_owned()),
                "classes" => names.classes = Some(number()?),
                "null" => names.null = Some(value.parse().map_err(|_| wrong("a class"))?),
                "channels" => names.channels = Some(number()?),
                "size" => names.size = Some(parse_size(value).ok_or_else(|| wrong("HxW as in size=32x48"))?),
                _ => return Err(wrong("sample, timestep, class, output, classes, null, channels or size")),
            }
        }
        Ok(names)
    }
}

impl std::fmt::Display for Names {
    /// The text that [`FromStr`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: Option<usize>| n.map(|n| n.to_string());
        let all = [
            ("sample", self.sample.clone()),
            ("timestep", self.timestep.clone()),
            ("class", self.class.clone()),
            ("output", self.output.clone()),
            ("classes", number(self.classes)),
            ("null", number(self.null)),
            ("channels", number(self.channels)),
            ("size", self.size.map(|[height, width]| format!("{height}x{width}"))),
        ];
        let set: Vec<String> = all.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
        f.write_str(&set.join(","))
    }
}

/// How an input that has one number for each image looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PerImage {
    pub name: String,
    pub element: Element,
    /// Number of dimensions. All but the first are 1.
    pub rank: usize,
    /// Whether the whole call has only one such number.
    pub shared: bool,
}

/// The inputs and the output of a denoiser's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub sample: String,
    pub timestep: PerImage,
    /// The class labels and the number of classes.
    pub class: Option<(PerImage, usize)>,
    pub null_class: Option<usize>,
    pub output: String,
    /// `[channels, height, width]` of an image.
    pub shape: [usize; 3],
    /// Images per call: the number that the graph fixes, else 1.
    pub rows: usize,
}

impl Outline {
    /// Which input is which, in the form of [`Names`].
    ///
    /// # Errors
    /// An input or the output is missing, cannot be told from others, or has an unsuitable form. The message lists what
    /// the graph has.
    pub fn describe(&self, names: &Names) -> Result<String> {
        Signature::find(self, names).map(|signature| signature.to_string())
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sample, timestep, class, output, rows, .. } = self;
        write!(f, "sample={sample},timestep={},output={output}", timestep.name)?;
        if let Some((class, known)) = class {
            write!(f, ",class={},classes={known}", class.name)?;
        }
        if *rows > 1 { write!(f, " ({rows} images per call)") } else { Ok(()) }
    }
}

/// The inputs of a denoiser's graph.
struct Inputs<'a> {
    sample: &'a Value,
    timestep: &'a Value,
    class: Option<&'a Value>,
}

impl<'a> Inputs<'a> {
    /// Finds the inputs by `names`, type and shape.
    fn find(outline: &'a Outline, names: &Names) -> Result<Self> {
        let all = || outline.inputs.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
        let named = |what: &str, name: &str| {
            let found = outline.inputs.iter().find(|input| input.name == name);
            found.ok_or_else(|| Error::argument(format!("onnx: {what}={name}: the graph's inputs are {}", all())))
        };
        let sample = match &names.sample {
            Some(name) => named("sample", name)?,
            None => only(outline.inputs.iter().filter(|input| may_be_images(input))).ok_or_else(|| {
                Error::unsupported(format!(
                    "expected one input of images, float [n, channels, height, width]; the inputs are {}; name it: --onnx \
                     sample=NAME",
                    all()
                ))
            })?,
        };
        let rest: Vec<&Value> = outline.inputs.iter().filter(|input| input.name != sample.name).collect();
        let class = match (&names.class, &names.timestep) {
            (Some(name), _) => Some(named("class", name)?),
            (None, Some(name)) => rest.iter().find(|input| input.name != *name).copied(),
            (None, None) => class_of(&rest)?,
        };
        let timestep = match &names.timestep {
            Some(name) => named("timestep", name)?,
            None => {
                let others = rest.iter().filter(|input| class.is_none_or(|class| class.name != input.name));
                only(others.copied()).ok_or_else(|| {
                    let what = "expected one input for the timestep, a number or [n]";
                    Error::unsupported(format!("{what}; the graph's inputs are {}", all()))
                })?
            }
        };
        let known = [Some(&sample.name), Some(&timestep.name), class.map(|class| &class.name)];
        if let Some(other) = outline.inputs.iter().find(|input| !known.contains(&Some(&input.name))) {
            let what = "a denoiser takes images, timesteps and classes";
            return Err(Error::unsupported(format!("nothing is known to feed the input {other}: {what}")));
        }
        if timestep.name == sample.name || class.is_some_and(|c| c.name == sample.name || c.name == timestep.name) {
            return Err(Error::argument("onnx: an input has two names"));
        }
        Ok(Self { sample, timestep, class })
    }

    /// Images per call and `[channels, height, width]` of an image, as far as the graph fixes them.
    fn sizes(&self) -> Result<[Option<usize>; 4]> {
        let sample = self.sample;
        let sizes = match &sample.shape {
            Some(shape) => <[Option<usize>; 4]>::try_from(shape.as_slice()).ok(),
            None => Some([None; 4]),
        };
        let [rows, channels, height, width] = sizes.filter(|_| sample.element == Element::Float).ok_or_else(|| {
            let what = "expected float [n, channels, height, width]";
            Error::unsupported(format!("the input of the images is {sample}; {what}"))
        })?;
        // A graph traced for one batch may fix it in any of its inputs.
        let first = |value: &Value| value.shape.as_ref().and_then(|shape| *shape.first()?).filter(|&n| n > 1);
        let rows = rows.or_else(|| first(self.timestep)).or_else(|| self.class.and_then(first));
        Ok([rows, channels, height, width])
    }
}

impl Signature {
    /// Finds the inputs by `names`, type and shape.
    pub fn find(outline: &Outline, names: &Names) -> Result<Self> {
        let inputs = Inputs::find(outline, names)?;
        let [rows, channels, height, width] = inputs.sizes()?;
        let (rows, shape) = (rows.unwrap_or(1), shape_of([channels, height, width], names)?);
        if rows > MOST_ROWS || rows.saturating_mul(shape.iter().product()) > MOST_VALUES {
            return Err(Error::unsupported(format!("a batch of {rows} images of {shape:?} is too large")));
        }
        let timestep = per_image("timestep", inputs.timestep, rows)?;
        let class = match inputs.class {
            None => None,
            Some(class) => Some((per_image("class", class, rows)?, classes_of(outline, class, names)?)),
        };
        let null_class = names.null.or_else(|| number(outline, NULL_CLASS_KEY));
        let classes = class.as_ref().map_or(0, |(_, known)| *known);
        if let Some(null) = null_class.filter(|&null| null >= classes) {
            return Err(Error::argument(format!("onnx: null={null} is not one of the {classes} classes")));
        }
        let (sample, output) = (inputs.sample.name.clone(), output_of(outline, names, shape)?);
        Ok(Self { sample, timestep, class, null_class, output, shape, rows })
    }
}

/// Whether an input has the type and shape of images.
fn may_be_images(input: &Value) -> bool {
    let suits = |shape: &Vec<Option<usize>>| shape.len() == 4 && shape[1..] != [Some(1); 3];
    input.element == Element::Float && input.shape.as_ref().is_none_or(suits)
}

/// How many classes there are: as the user, the graph's metadata or its table says.
fn classes_of(outline: &Outline, class: &Value, names: &Names) -> Result<usize> {
    let known = names.classes.or_else(|| number(outline, CLASSES_KEY)).or_else(|| table(outline, class));
    known.filter(|n| (1..=MOST_CLASSES).contains(n)).ok_or_else(|| {
        Error::argument(format!(
            "the graph does not say how many classes its input {} knows; give --onnx classes=K",
            class.name
        ))
    })
}

/// The only element.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    all.next().filter(|_| all.next().is_none())
}

/// `[channels, height, width]`: what the graph fixes, else what the user gives.
fn shape_of(graph: [Option<usize>; 3], names: &Names) -> Result<[usize; 3]> {
    let [height, width] = names.size.map_or([None; 2], |[h, w]| [Some(h), Some(w)]);
    let mut shape = [0; 3];
    let given =
        [(names.channels, "channels", "channels=C"), (height, "height", "size=HxW"), (width, "width", "size=HxW")];
    for ((shape, fixed), (given, what, remedy)) in shape.iter_mut().zip(graph).zip(given) {
        *shape = match (fixed, given) {
            (Some(fixed), Some(given)) if fixed != given => {
                return Err(Error::argument(format!("the graph fixes the {what} to {fixed}, found {given}")));
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => {
                return Err(Error::argument(format!("the graph leaves the {what} free; give --onnx {remedy}")));
            }
        };
    }
    let values = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    if values.is_none_or(|n| n > MOST_VALUES) {
        return Err(Error::unsupported(format!("images of {shape:?} are too large")));
    }
    Ok(shape)
}

/// The class labels among the inputs besides the images, where nothing is named.
fn class_of<'a>(rest: &[&'a Value]) -> Result<Option<&'a Value>> {
    let [a, b] = rest else { return Ok(None) };
    let says_class = |value: &Value| {
        let name = value.name.to_lowercase();
        name == "y" || name.contains("class") || name.contains("label")
    };
    match (says_class(a), says_class(b), a.element, b.element) {
        (true, false, ..) => Ok(Some(a)),
        (false, true, ..) => Ok(Some(b)),
        (.., Element::Integer, Element::Float) => Ok(Some(a)),
        (.., Element::Float, Element::Integer) => Ok(Some(b)),
        _ => Err(Error::argument(format!(
            "which of the inputs {a} and {b} is the timestep? say --onnx timestep=NAME,class=NAME"
        ))),
    }
}

/// Checks an input with one number for each image.
fn per_image(what: &str, value: &Value, rows: usize) -> Result<PerImage> {
    // Where the graph states no shape, a vector is the custom.
    let shape = value.shape.clone().unwrap_or_else(|| vec![None]);
    let fits = shape.first().is_none_or(|n| n.is_none_or(|n| n == 1 || n == rows))
        && shape.iter().skip(1).all(|n| n.is_none_or(|n| n == 1))
        && value.element != Element::Other;
    if !fits {
        return Err(Error::unsupported(format!("the input of the {what} is {value}; expected a number or [n]")));
    }
    let shared = shape.first().is_none_or(|n| *n == Some(1));
    Ok(PerImage { name: value.name.clone(), element: value.element, rank: shape.len(), shared })
}

/// The number of rows of the table that the labels are looked up in.
fn table(outline: &Outline, class: &Value) -> Option<usize> {
    let (table, _) = outline.gathers.iter().find(|(_, indices)| *indices == class.name)?;
    usize::try_from(*outline.tensors.get(table)?.first()?).ok()
}

fn number(outline: &Outline, key: &str) -> Option<usize> {
    outline.metadata.get(key)?.parse().ok()
}

fn output_of(outline: &Outline, names: &Names, [_, height, width]: [usize; 3]) -> Result<String> {
    let all = || outline.outputs.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
    if let Some(name) = &names.output {
        let found = outline.outputs.iter().any(|output| output.name == *name);
        let wrong = || Error::argument(format!("onnx: output={name}: the graph's outputs are {}", all()));
        return if found { Ok(name.clone()) } else { Err(wrong()) };
    }
    let fits = |output: &&Value| {
        let Some(shape) = &output.shape else { return output.element != Element::Integer };
        let free_or = |found: Option<usize>, wanted| found.is_none_or(|found| found == wanted);
        output.element == Element::Float && matches!(shape[..], [_, _, h, w] if free_or(h, height) && free_or(w, width))
    };
    only(outline.outputs.iter().filter(fits)).map(|output| output.name.clone()).ok_or_else(|| {
        Error::unsupported(format!(
            "expected one output of the images' size, float [n, channels, {height}, {width}]; the outputs are {}; name \
             it: --onnx output=NAME",
            all()
        ))
    })
}

//! Text and numbers of a page.

/// A page being written.
pub(super) struct Html(String);

impl Html {
    pub fn new() -> Self {
        Self(String::new())
    }

    /// Adds markup as it is.
    pub fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Adds an element with escaped `text`; `attributes` is markup.
    pub fn element(&mut self, name: &str, attributes: &str, text: &str) {
        let space = if attributes.is_empty() { "" } else { " " };
        self.0 += &format!("<{name}{space}{attributes}>{}</{name}>\n", escaped(text));
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

/// Text escaped for an element or a quoted attribute.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// A distance with three significant digits; whole if it is large.
pub(super) fn distance(value: f64) -> String {
    if value < 0.0 {
        return format!("−{}", distance(-value));
    }
    match value {
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 1.0 || a == 0.0 => format!("{value:.2}"),
        a if a >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// A value and its standard error, to two digits of the error.
pub(super) fn uncertain(value: f64, error: f64) -> String {
    let digits = if error > 0.0 { (1.0 - error.log10().floor()).clamp(0.0, 9.0) as usize } else { 2 };
    format!("{value:.digits$} ± {error:.digits$}")
}

/// Seconds, or milliseconds below one second.
pub(super) fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{} ms", distance(value * 1000.0)) } else { format!("{} s", distance(value)) }
}

/// A whole number with commas between thousands.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many things, with the word for one.
pub(super) fn counted(number: usize, word: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {word}{plural}", grouped(number as u64))
}

/// The beginning of a digest.
pub(super) fn short(digest: &str) -> String {
    digest.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let found = [367.43, 13.36, 4.162, 0.0561, 0.0, 2.5e-5].map(distance);
        assert_eq!(found, ["367", "13.4", "4.16", "0.056", "0.00", "2.5e-5"]);
        assert_eq!(
            [(8.043, 0.21), (53.1, 3.456), (0.5, 0.0)].map(|(v, e)| uncertain(v, e)),
            ["8.04 ± 0.21", "53.1 ± 3.5", "0.50 ± 0.00"]
        );
        assert_eq!([0.0123, 2.5, 400.0].map(seconds), ["12.3 ms", "2.50 s", "400 s"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 5000].map(|n| counted(n, "call")), ["0 calls", "1 call", "5,000 calls"]);
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut page = Html::new();
        page.element("p", "class=\"x\"", "<script>\"&'");
        assert_eq!(page.into_string(), "<p class=\"x\">&lt;script&gt;&quot;&amp;&#39;</p>\n");
    }
}

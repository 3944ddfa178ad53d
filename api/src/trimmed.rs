//! What stands around a value and does not belong to it: `echo` and editors end a file with a line break, files of
//! variables from Windows leave a carriage return, some editors begin a file with a byte order mark. Secrets, URLs and
//! tokens are trimmed by this one function, whatever way they come.

/// The text without white space and byte order marks at its ends.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_spaces_and_byte_order_marks_at_the_ends_do_not_count() {
        for around in [
            "a b",
            "a b\n",
            "a b\r\n",
            "a b\n\n",
            " \ta b \u{a0}",
            "\u{feff}a b\r\n\r\n",
        ] {
            assert_eq!(trimmed(around), "a b", "{around:?}");
        }
        for nothing in ["", "\n", " \r\n", "\u{feff}"] {
            assert_eq!(trimmed(nothing), "", "{nothing:?}");
        }
    }
}

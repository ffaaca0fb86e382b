//! Inputs in a form that is not read: the name of the form, and the command that converts it.

/// The control characters that occur in text: tab, line feed, vertical tab, form feed, carriage return.
const CONTROLS_OF_TEXT: std::ops::RangeInclusive<u8> = b'\t'..=b'\r';

/// Files with their first bytes, and the remedy.
const MAGIC: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "it is compressed with gzip: unpack it with `zcat file | sweeper enqueue …`"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it with `zstdcat file | sweeper enqueue …`"),
    (b"\xfd7zXZ\0", "it is compressed with xz: unpack it with `xzcat file | sweeper enqueue …`"),
    (b"BZh91AY&SY", "it is compressed with bzip2: unpack it with `bzcat file | sweeper enqueue …`"),
    (
        b"PK\x03\x04",
        "it is a ZIP archive, or a spreadsheet (.xlsx is one): save the spreadsheet as CSV, or unpack the archive with \
         `unzip -p file | sweeper enqueue …`",
    ),
    (
        b"SQLite format 3\0",
        "it is a SQLite database: read the IDs from it with `sqlite3 file QUERY | sweeper enqueue …`",
    ),
    (b"\xff\xfe\0\0", "it is UTF-32 text, expected UTF-8: `iconv -f UTF-32 -t UTF-8 file | sweeper enqueue …`"),
    (b"\0\0\xfe\xff", "it is UTF-32 text, expected UTF-8: `iconv -f UTF-32 -t UTF-8 file | sweeper enqueue …`"),
];

/// Why an input that begins with these bytes is no UTF-8 text, and what to do. `first`: its first line, or the start of a long
/// one. `next`: as much of what follows as has been read.
pub(super) fn binary(first: &[u8], next: &[u8]) -> Option<String> {
    if let Some((_, said)) = MAGIC.iter().find(|(magic, _)| first.starts_with(magic)) {
        return Some((*said).to_owned());
    }
    if let Some(encoding) = utf_16(first) {
        return Some(format!(
            "it is UTF-16 text, expected UTF-8: convert it with `iconv -f {encoding} -t UTF-8 file | sweeper enqueue …`"
        ));
    }
    if has_lone_carriage_return(first) {
        let said = r"its lines end in a carriage return alone, as on an old Mac, expected a line feed: convert them with
            `tr '\r' '\n' <file | sweeper enqueue …`";
        return Some(said.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let is_binary = |byte: &u8| byte.is_ascii_control() && !CONTROLS_OF_TEXT.contains(byte);
    // The first line of some binary files has no control character, but is no text either. A single line in another encoding is
    // only refused itself.
    let is_text = str::from_utf8(first).is_ok();
    let found = first.iter().any(is_binary) || (!is_text && next.contains(&0));
    found.then(|| "it is binary, expected text: an entry ID a line, CSV, or a JSON object a line".to_owned())
}

/// Whether a carriage return stands before other text. Text in quotation marks may have one.
fn has_lone_carriage_return(line: &[u8]) -> bool {
    let at = line.iter().position(|byte| *byte == b'\r');
    at.is_some_and(|at| {
        let (before, after) = (&line[..at], line[at + 1..].trim_ascii());
        !before.contains(&b'"') && !after.is_empty() && str::from_utf8(line).is_ok()
    })
}

/// The text between the quotation marks around an ID.
pub(in crate::cli) fn in_quotes(text: &str) -> Option<&str> {
    let between = |mark: char| text.strip_prefix(mark)?.strip_suffix(mark).filter(|text| !text.contains(mark));
    ['"', '\''].into_iter().find_map(between).filter(|text| !text.is_empty() && !text.contains(','))
}

/// iconv's name of the encoding, if this is UTF-16. Without a byte order mark, every second byte of ASCII text is zero.
fn utf_16(first: &[u8]) -> Option<&'static str> {
    if first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff") {
        return Some("UTF-16");
    }
    let is_ascii = |at: usize| {
        let (pairs, _) = first.as_chunks::<2>();
        !pairs.is_empty() && pairs.iter().all(|pair| pair[1 - at] == 0 && pair[at].is_ascii() && pair[at] != 0)
    };
    if is_ascii(0) {
        Some("UTF-16LE")
    } else if is_ascii(1) {
        Some("UTF-16BE")
    } else {
        None
    }
}

/// Whether the text is two or more numbers where one ID is expected.
pub(in crate::cli) fn is_several(text: &str) -> bool {
    let is_separator = |c: char| matches!(c, ',' | ';') || c.is_ascii_whitespace();
    let parts = || text.split(is_separator).filter(|part| !part.is_empty());
    parts().count() > 1 && parts().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What to do about JSON that is not an object in each line. `first`: the first line.
pub(super) fn json(first: &str) -> Option<&'static str> {
    let goes_on = || serde_json::from_str::<serde::de::IgnoredAny>(first).is_err_and(|error| error.is_eof());
    if first.starts_with('[') {
        Some("it is a JSON array, expected an object a line: `jq -rc '.[]' file | sweeper enqueue …`")
    } else if first.starts_with('{') && first.ends_with(['{', '[', ',']) && goes_on() {
        Some(
            "it is JSON whose objects span several lines, expected an object a line: `jq -c . file | sweeper \
             enqueue …`, or `jq -c '.NAME[]' …` for the array NAME in an object",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf_16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn what_is_no_text_is_named_with_its_remedy() {
        let mut with_mark = utf_16("\u{feff}1\r\n2", u16::to_le_bytes);
        with_mark.truncate(7);
        for (first, named) in [
            (b"\x1f\x8b\x08\0\0".as_slice(), "gzip: unpack it with `zcat file |"),
            (b"\x28\xb5\x2f\xfdx", "zstdcat"),
            (b"\xfd7zXZ\0", "xzcat"),
            (b"BZh91AY&SY", "bzcat"),
            (b"PK\x03\x04\x14", "ZIP archive"),
            (b"SQLite format 3\0\x10", "sqlite3 file"),
            (b"\xff\xfe\0\x004\0\0\0", "-f UTF-32 "),
            (&with_mark, "`iconv -f UTF-16 -t UTF-8 file |"),
            (&utf_16("\u{feff}1\n", u16::to_be_bytes), "`iconv -f UTF-16 -t UTF-8 file |"),
            // A line ends at the byte \n, which is the first half of the character in UTF-16LE.
            (&utf_16("4711\r\n", u16::to_le_bytes)[..11], "`iconv -f UTF-16LE -t UTF-8 file |"),
            (&utf_16("4711\r\n", u16::to_be_bytes), "`iconv -f UTF-16BE -t UTF-8 file |"),
            (b"\x7fELF\x02", "it is binary"),
            (b"ab\x001", "it is binary"),
        ] {
            let said = binary(first, b"").unwrap_or_default();
            assert!(said.contains(named), "{first:?}: {said}");
        }
        assert!(binary(b"\x89PNG\r\n", b"\x1a\n\0\0").is_some());
        for text in ["4711", "", "\n", "\u{feff}1\r\n", "a\tb\x0c", "é", "BZh", "PK"] {
            assert_eq!(binary(text.as_bytes(), b"\0"), None, "{text:?}");
        }
        assert_eq!(binary(b"M\xfcller\n", b"4711\n"), None, "one line in Latin-1");
    }

    #[test]
    fn several_numbers_are_no_id() {
        for several in ["4711,4712", "1;2", "1, 2,3", "1 2", "1\t2", "1,234"] {
            assert!(is_several(several), "{several}");
        }
        for one in ["4711", "a,b", "4711,x", "", ",", "4711,", "4711.0", "-1,-2"] {
            assert!(!is_several(one), "{one}");
        }
    }

    #[test]
    fn json_of_another_shape_is_named() {
        for array in ["[", "[{\"entry_id\":1}]", "[1,2]"] {
            assert!(json(array).is_some_and(|said| said.contains("jq -rc '.[]' file")), "{array}");
        }
        for pretty in ["{", "{\"entries\":[", "{\"entry_id\":1,"] {
            assert!(json(pretty).is_some_and(|said| said.contains("jq -c . file")), "{pretty}");
        }
        for other in ["{}", "{\"entry_id\":1}", "{\"entry_id\"", "{,", "4711", "]"] {
            assert_eq!(json(other), None, "{other}");
        }
    }
}

//! What is easily given by mistake: each is named with what to do, and nothing is made of it that nobody meant.

use std::{fs, path::Path};

use super::{enqueue, fed, rows};
use crate::daemon::sweeper;

const A: &[&str] = &["--agent", "a"];

/// Makes an empty queue.
fn init(dir: &Path) {
    let mut command = sweeper(dir);
    command.arg("init");
    assert_eq!(fed(command, "").0, 0);
}

/// UTF-16 as the programs of Windows write it.
fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Arguments, input, and parts of the one line that is said on standard error.
type Mistake = (&'static [&'static str], Vec<u8>, &'static [&'static str]);

/// Each ends with exit code 2 and nothing enqueued.
fn refused_as_a_whole() -> Vec<Mistake> {
    let several: &[&str] = &["line 1: \"4711,4712\" looks like several IDs", "each on a line of its own"];
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x33\x37\x34\xe4\x02\0\x77\x53\n\x0b".to_vec();
    vec![
        (A, "4711,4712\n4713\n".into(), several),
        (&["--agent", "a", "4711,4712"], vec![], &["\"4711,4712\" looks like several IDs", "an argument of its own"]),
        (&["--agent", "a", "4711 4712"], vec![], &["\"4711 4712\" looks like several IDs"]),
        (&["--agent", "a", "4711,", "4712"], vec![], &["\"4711,\" ends with a separator: give 4711"]),
        (&["--agent", "a", "4711;"], vec![], &["\"4711;\" ends with a separator: give 4711"]),
        (&["--agent", "a", "4.71E+15"], vec![], &["\"4.71E+15\" is a number in floating-point notation", "as text"]),
        (&["--agent", "a", "4711.0"], vec![], &["\"4711.0\" is a number in floating-point notation", "as text"]),
        (&["--agent", "a", "ids.txt"], vec![], &["\"ids.txt\"", "there is a file of that name: --file ids.txt?"]),
        (A, "\"4711\"\n".into(), &["line 1: \"4711\" is in quotation marks, which are not part of an ID: remove them"]),
        (A, "'4711'\n'4712'\n".into(), &["line 1: '4711' is in quotation marks"]),
        (
            &["--agent", "a", "\"4711\""],
            vec![],
            &["\"4711\" is in quotation marks, which are not part of an ID: give 4711"],
        ),
        (
            A,
            "4711\r4712\r4713\r".into(),
            &["line 1: its lines end in a carriage return alone", "`tr '\\r' '\\n' <file |"],
        ),
        (A, "entry_id,priority\r1,2\r".into(), &["line 1: its lines end in a carriage return alone"]),
        (&["ids.txt"], vec![], &["there is a file of that name: --file ids.txt?"]),
        (A, "Entry ID\n1\n".into(), &["line 1: column \"Entry ID\": did you mean entry_id?", "--format lines"]),
        (A, "entryId,priority\n1,2\n".into(), &["column \"entryId\": did you mean entry_id?"]),
        (A, "EntryId\n1\n".into(), &["column \"EntryId\": did you mean entry_id?"]),
        (A, "id\n1\n".into(), &["column \"id\": did you mean entry_id?"]),
        (&[], "Agent,entry_id\na,1\n".into(), &["column \"Agent\": did you mean agent_id?"]),
        (A, "entry_id,Due At\n1,\n".into(), &["column \"Due At\": did you mean due_at?"]),
        (A, "entry_id;priority\n1;2\n".into(), &["separated by \";\", expected \",\"", "`tr ';' ',' <file"]),
        (A, "Entry ID\tPriority\n1\t2\n".into(), &["separated by tabs, expected \",\"", "`tr '\\t' ',' <file"]),
        (&["--agent", "a", "--format", "csv"], "entry_id;due_at\n1;\n".into(), &["separated by \";\", expected \",\""]),
        (A, utf_16("\u{feff}4711\r\n4712\r\n"), &["it is UTF-16 text", "`iconv -f UTF-16 -t UTF-8 file |"]),
        (A, utf_16("4711\r\n4712\r\n"), &["it is UTF-16 text", "`iconv -f UTF-16LE -t UTF-8 file |"]),
        (A, gzip, &["it is compressed with gzip", "`zcat file |"]),
        (A, b"PK\x03\x04\x14\0\x08\0\n\n\n".to_vec(), &["it is a ZIP archive", "save the spreadsheet as CSV"]),
        (A, b"\x7fELF\x02\x01\x01\0\0\n\0\n\0".to_vec(), &["it is binary, expected text"]),
        (A, vec![0; 1 << 20], &["it is binary, expected text"]),
        (A, "[\n  {\"entry_id\": 1}\n]\n".into(), &["it is a JSON array", "`jq -rc '.[]' file |"]),
        (&["--format", "jsonl"], "[{\"entry_id\":1}]".into(), &["it is a JSON array", "`jq -rc '.[]' file |"]),
        (A, "{\n  \"entry_id\": 1\n}\n".into(), &["objects span several lines", "`jq -c . file |"]),
        (&["--agent", "a", "--due", "-1h", "1"], vec![], &["'--due <TIME>': is in the past: leave it out"]),
    ]
}

#[test]
fn what_cannot_be_read_is_named_once_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ids.txt"), "4711\n").unwrap();
    for (arguments, input, said) in refused_as_a_whole() {
        let shown = String::from_utf8_lossy(&input[..input.len().min(20)]).into_owned();
        let (code, out, err) = enqueue(dir.path(), arguments, input);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}, {shown:?}: {err}");
        for part in said {
            assert!(err.contains(part), "{arguments:?}, {shown:?}: no {part:?} in {err}");
        }
        let lines = err.lines().take_while(|line| !line.is_empty()).count();
        assert_eq!(lines, 1, "{arguments:?}, {shown:?}: {err}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
}

#[tokio::test]
async fn one_wrong_line_is_refused_with_its_number_and_the_others_go_in() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    for (line, said) in [
        ("4711,4712", "looks like several IDs: write each on a line of its own"),
        ("4711;4712", "looks like several IDs"),
        ("4711 4712", "looks like several IDs"),
        ("4.71E+15", "is a number in floating-point notation"),
        ("4711.0", "is a number in floating-point notation"),
    ] {
        let (code, out, err) = enqueue(dir.path(), A, format!("1\n{line}\n2\n"));
        assert!(code == 1 && out.ends_with("refused 1\n"), "{line}: {out}");
        assert!(err.starts_with(&format!("standard input, line 2: \"{line}\" {said}")), "{line}: {err}");
        assert_eq!(err.lines().count(), 1, "{line}: {err}");
    }
    for (input, line, said) in [
        ("entry_id\n1\n\"4,711\"\n2\n", 3, "\"4,711\" looks like several IDs"),
        ("{\"entry_id\":1}\n{\"entry_id\":\"4711 4712\"}\n{\"entry_id\":2}\n", 2, "looks like several IDs"),
        ("entry_id\n1\n4711,0\n2\n", 3, "has 2 fields, and the header has 1; a value with a comma needs double quotes"),
    ] {
        let (code, out, err) = enqueue(dir.path(), A, input);
        assert!(code == 1 && out.ends_with("refused 1\n"), "{input}: {out}");
        let place = format!("standard input, line {line}: ");
        assert!(err.starts_with(&place) && err.contains(said) && err.lines().count() == 1, "{input}: {err}");
    }
    assert_eq!(rows(dir.path()).await, ["a 1 0 0", "a 2 0 0"]);
}

#[tokio::test]
async fn what_is_odd_is_said_once_and_enqueued_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let number = "is not a number, and the API's entry IDs are numbers: check the input";
    let cases: [(&[&str], &str, String); 6] = [
        (A, "1\nx\n2\n", format!("standard input, line 2: \"x\" {number}")),
        (
            A,
            "1\n\nx\ny\nx\n",
            "standard input, line 3: \"x\" is not a number (the first of 3 such IDs), and".to_owned(),
        ),
        (&["--agent", "a", "7", "z"], "", format!("\"z\" {number}")),
        (&["--agent", "a", "--dry-run"], "4711x\n", format!("standard input, line 1: \"4711x\" {number}")),
        (A, "", "standard input: nothing was read: there is no ID in it".to_owned()),
        (A, "\n \nentry_id\n", "standard input: nothing was read: there is no ID in it".to_owned()),
    ];
    for (arguments, input, said) in cases {
        let (code, _, err) = enqueue(dir.path(), arguments, input);
        assert_eq!(code, 0, "{arguments:?}, {input:?}: {err}");
        assert!(err.starts_with(&said) && err.lines().count() == 1, "{arguments:?}, {input:?}: {err}");
    }
    assert_eq!(rows(dir.path()).await.len(), 6, "1, x, 2, y, 7, z");
    for (arguments, has_remedy) in [(&["--agent", "a", "--dry-run", "q"][..], false), (&["--agent", "a", "z"], true)] {
        let (_, _, err) = enqueue(dir.path(), arguments, "");
        assert_eq!(err.contains("`sweeper cancel` takes it out of the queue"), has_remedy, "{arguments:?}: {err}");
    }
    let (code, _, err) = enqueue(dir.path(), A, "1\n2\n");
    assert_eq!((code, err.as_str()), (0, ""), "numbers are nothing to speak of");
}

#[tokio::test]
async fn the_due_time_that_was_taken_is_said() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let said = |zone: &str, due: &str| {
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "a", "--due", due, "1"]).env("TZ", zone);
        let (code, out, err) = fed(command, "");
        assert!(code == 0 && out.starts_with("inserted "), "{due}: {err}");
        err
    };
    let summer = "GMT0BST,M3.5.0/1,M10.5.0";
    let told = said(summer, "2100-07-01T02:30");
    assert!(told.starts_with("due 2100-07-01 02:30 UTC (03:30 here), in ") && told.ends_with(" days\n"), "{told}");
    let told = said("UTC0", "2100-07-01T23:30-03:00");
    assert!(told.starts_with("due 2100-07-02 02:30 UTC, in ") && told.ends_with(" days\n"), "{told}");
    assert!(said("UTC0", "90m").ends_with(" UTC, in 1h 30m\n"));
    assert_eq!(said(summer, "2020-01-01"), "due 2020-01-01 00:00 UTC, which is past: at once\n");
    assert_eq!(said(summer, "0"), "due at once\n");
}

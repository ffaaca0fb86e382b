use super::{
    lines::{Lines, MAX_LINE},
    *,
};

fn parser(format: Format, agent: Option<&str>) -> Parser {
    let agent = agent.map(|agent| AgentId::parse(agent).unwrap());
    Parser::new(format, Defaults { agent, priority: 5, due_at: Timestamp(9), label: None }, Timestamp(1_000))
}

fn wish(agent: &str, entry: &str, priority: i64, due_at: i64) -> Wish {
    let (agent, entry) = (AgentId::parse(agent).unwrap(), EntryId::parse(entry).unwrap());
    Wish { agent, entry, priority, due_at: Timestamp(due_at), label: None }
}

#[test]
fn what_is_neither_lines_of_ids_nor_csv_nor_json_is_refused_instead_of_guessed() {
    for first in ["entry_id;priority", "Entry_ID", "id", "agent_id", "PRIORITY", "[", "[1,2]", "\"16\"", "1\t2"] {
        let refused = parser(Format::Auto, Some("a")).parse(first);
        assert!(matches!(refused, Err(Problem::Input(_))), "{first:?}: {refused:?}");
        assert!(parser(Format::Lines, Some("a")).parse(first).is_ok() || first.contains('\t'), "{first:?}");
    }
    let mut guessing = parser(Format::Auto, Some("a"));
    assert!(guessing.parse("bad line").is_err());
    for later in ["{\"entry_id\":13}", "1,2", "1;2", "\"16\"", "[", "]}"] {
        let refused = guessing.parse(later);
        assert!(matches!(refused, Err(Problem::Line(_))) || later == "]}", "{later:?}: {refused:?}");
    }
    assert!(guessing.parse("17").is_ok());
    let mut csv = parser(Format::Auto, None);
    assert_eq!(csv.parse("agent_id,entry_id"), Ok(None));
    assert!(csv.parse("a,1").is_ok());
    assert_eq!(csv.parse(",2"), Err(Problem::Line("has no agent_id, and no --agent was given".to_owned())));
}

#[test]
fn lines_are_read_in_constant_memory_and_without_what_is_around_them() {
    let long = "x".repeat(MAX_LINE + 1);
    let input = format!("\u{feff}1\r\n\n 2 \n{long}\n{long}{long}{long}\n3\n\u{fffd}");
    let mut input = input.into_bytes();
    let end = input.len() - 3;
    input[end] = 0xff;
    let mut lines = Lines::new(input.as_slice());
    let mut seen = Vec::new();
    while let Some(line) = lines.next().unwrap() {
        seen.push(line.map(str::to_owned).map_err(|_| ()));
    }
    let text = |text: &str| Ok(text.to_owned());
    assert_eq!(seen, [text("1"), text(""), text("2"), Err(()), Err(()), text("3"), Err(())]);
    assert_eq!((lines.number, lines.read), (7, input.len() as u64));
    let exact = "y".repeat(MAX_LINE);
    assert_eq!(Lines::new(exact.as_bytes()).next().unwrap(), Some(Ok(exact.as_str())), "just short enough");
}

#[test]
fn the_first_line_tells_the_format() {
    for (first, format) in [
        ("4711", Format::Lines),
        ("id-1", Format::Lines),
        ("entry_id", Format::Csv),
        ("\"entry_id\" , priority", Format::Csv),
        ("{\"entry_id\":1}", Format::Jsonl),
    ] {
        let mut parser = parser(Format::Auto, Some("a"));
        parser.parse("").unwrap();
        parser.parse(first).unwrap();
        assert_eq!(parser.format, format, "{first}");
    }
    assert!(
        matches!(parser(Format::Auto, Some("a")).parse("a,1"), Err(Problem::Input(said)) if said.contains("--format"))
    );
    assert_eq!(parser(Format::Lines, Some("a")).parse("a,1"), Ok(Some(wish("a", "a,1", 5, 9))));
}

#[test]
fn records_and_objects_say_what_the_defaults_do_not() {
    let mut csv = parser(Format::Csv, Some("a"));
    assert_eq!(csv.parse("due_at,entry_id,agent_id,priority"), Ok(None));
    assert_eq!(csv.parse("1s,\"4\"\"7\",b,-3"), Ok(Some(wish("b", "4\"7", -3, 2_000))));
    assert_eq!(csv.parse(", 47 ,,"), Ok(Some(wish("a", "47", 5, 9))));
    let mut objects = parser(Format::Jsonl, Some("a"));
    let last = r#"{"entry_id":9007199254740991}"#;
    assert_eq!(objects.parse(last), Ok(Some(wish("a", "9007199254740991", 5, 9))));
    let all = r#"{"entry_id":47,"agent_id":"b","priority":3,"due_at":1764000000000}"#;
    assert_eq!(objects.parse(all), Ok(Some(wish("b", "47", 3, 1_764_000_000_000))));
    assert_eq!(objects.parse(r#"{"entry_id":"47","agent_id":null}"#), Ok(Some(wish("a", "47", 5, 9))));
}

#[test]
fn every_problem_is_named() {
    let cases = [
        (Format::Lines, "a b", "\"a b\" is not an ID"),
        (Format::Csv, "1,2", "has 2 fields, and the header has 3"),
        (Format::Csv, "b,\"1,2", "does not end"),
        (Format::Csv, "b,,1", "has no entry_id"),
        (Format::Csv, "b/c,1,", "one URL path segment"),
        (Format::Csv, "b,1,high", "priority \"high\": must be an integer"),
        (Format::Jsonl, "{\"entry_id\"", "is not JSON"),
        (Format::Jsonl, "4711", "not a JSON object"),
        (Format::Jsonl, "{}", "has no entry_id"),
        (Format::Lines, "4711.0", "floating-point"),
        (Format::Csv, "4.71E+15,1,1", "floating-point"),
        (Format::Jsonl, r#"{"entry_id":"4711.0"}"#, "floating-point"),
        (Format::Jsonl, r#"{"entry_id":4711.0}"#, "write it as a string"),
        (Format::Jsonl, r#"{"entry_id":9007199254740992}"#, "write it as a string"),
        (Format::Jsonl, r#"{"entry_id":-9007199254740992}"#, "write it as a string"),
        (Format::Jsonl, r#"{"entry_id":1.5}"#, "write it as a string"),
        (Format::Jsonl, r#"{"entry_id":123456789012345678901234}"#, "write it as a string"),
        (Format::Jsonl, r#"{"entry_id":[1]}"#, "must be a string or a number"),
        (Format::Jsonl, r#"{"entry_id":1,"entry_id":2}"#, "duplicate field `entry_id`"),
        (Format::Jsonl, r#"{"entry_id":1,"due_at":null,"due_at":"2h"}"#, "duplicate field `due_at`"),
        (Format::Jsonl, r#"{"entry_id":1,"prio":1}"#, "unknown field `prio`, expected one of"),
        (Format::Jsonl, r#"{"entry_id":1,"due_at":"soon"}"#, "due_at \"soon\": must be a time"),
        (Format::Jsonl, r#"{"id":1}"#, "unknown field `id`"),
        (Format::Jsonl, r#"{"entryId":1}"#, "did you mean entry_id?"),
        (Format::Jsonl, r#"{"Agent ID":"a","entry_id":1}"#, "did you mean agent_id?"),
        (Format::Jsonl, r#"{"entry_id":1,"due_at":1764000000}"#, "multiply it by 1000"),
    ];
    for (format, line, said) in cases {
        let mut parser = parser(format, Some("a"));
        if format == Format::Csv {
            parser.parse("agent_id,entry_id,priority").unwrap();
        }
        let problem = parser.parse(line).unwrap_err();
        assert!(matches!(&problem, Problem::Line(text) if text.contains(said)), "{line}: {problem:?}");
    }
    for (line, agent, said) in [
        ("entry_id", None, "--agent"),
        ("agent_id", Some("a"), "entry_id"),
        ("entry_id,entry_id", Some("a"), "twice"),
        ("entry_id,voice", Some("a"), "column \"voice\" is none of"),
        ("entry_id,prio", Some("a"), "column \"prio\": did you mean priority?"),
        ("entry_id,id", Some("a"), "column \"id\" is none of"),
        ("agent_id;entry_id", Some("a"), "separated by \";\""),
    ] {
        let problem = parser(Format::Csv, agent).parse(line).unwrap_err();
        assert!(matches!(&problem, Problem::Input(text) if text.contains(said)), "{line}: {problem:?}");
    }
    assert!(matches!(parser(Format::Lines, None).parse("1"), Err(Problem::Input(_))));
    assert!(matches!(parser(Format::Jsonl, None).parse(r#"{"entry_id":1}"#), Err(Problem::Line(_))));
}

#[test]
fn a_first_line_that_means_something_else_is_named() {
    for (first, said) in [
        ("Entry ID", "column \"Entry ID\": did you mean entry_id?"),
        ("entryId,x", "column \"entryId\": did you mean entry_id?"),
        ("agent_id,id", "column \"id\": did you mean entry_id?"),
        ("Agent,4711", "column \"Agent\": did you mean agent_id?"),
        ("PRIORITY", "column \"PRIORITY\": did you mean priority?"),
        ("entry_id;due_at", "separated by \";\", expected \",\""),
        ("entry_id\tdue_at", "separated by tabs, expected \",\""),
        ("4711,4712", "looks like several IDs"),
        ("4711\t5", "looks like several IDs"),
        ("a,1;2", "names no column entry_id"),
        ("[", "JSON array"),
        ("{", "several lines"),
    ] {
        let refused = parser(Format::Auto, Some("a")).parse(first);
        assert!(matches!(&refused, Err(Problem::Input(text)) if text.contains(said)), "{first:?}: {refused:?}");
    }
    // Only the first line can tell that the whole input is something else.
    let mut objects = parser(Format::Jsonl, Some("a"));
    assert!(objects.parse("{\"entry_id\":1}").is_ok());
    for later in ["[", "{"] {
        assert!(matches!(objects.parse(later), Err(Problem::Line(_))), "{later}");
    }
    assert_eq!(parser(Format::Lines, Some("a")).parse("id"), Ok(Some(wish("a", "id", 5, 9))));
}

#[test]
fn a_source_that_is_no_text_is_told_by_its_first_line() {
    let mut lines = Lines::new(b"\x1f\x8b\x08\n1\n".as_slice());
    assert!(matches!(lines.next().unwrap(), Some(Err(Problem::Input(said))) if said.contains("gzip")));
    assert!(lines.is_whole, "it is not held back as a line that was cut off");
    let mut later = Lines::new(b"1\n\x1f\x8b\n\0\n".as_slice());
    assert_eq!(later.next().unwrap(), Some(Ok("1")));
    assert!(matches!(later.next().unwrap(), Some(Err(Problem::Line(_)))));
    assert_eq!(later.next().unwrap(), Some(Ok("\0")), "refused as an ID");
}

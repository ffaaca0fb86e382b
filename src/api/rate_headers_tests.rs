use proptest::prelude::*;
use reqwest::header::{HeaderName, HeaderValue};

use super::*;

/// Header lines: name and value.
type Lines<'a> = &'a [(&'a str, &'a str)];

fn headers(lines: Lines<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn read(lines: Lines<'_>) -> Vec<Window> {
    parse(&headers(lines))
}

/// Limit, length in seconds, remaining, reset in seconds; 0 for a length or a reset that is not told.
fn window(limit: u32, length: u64, remaining: impl Into<Option<u32>>, reset: impl Into<Option<u64>>) -> Window {
    Window {
        limit: Some(limit).filter(|limit| *limit > 0),
        length: Some(length).filter(|length| *length > 0).map(Duration::from_secs),
        remaining: remaining.into(),
        reset: reset.into().map(Duration::from_secs),
    }
}

fn assert_read(cases: &[(Lines<'_>, &[Window])]) {
    for (lines, expected) in cases {
        assert_eq!(read(lines), *expected, "{lines:?}");
    }
}

#[test]
fn the_form_of_the_present_draft_is_read() {
    let policy = ("RateLimit-Policy", "\"default\";q=100;w=60");
    assert_read(&[
        (&[policy, ("RateLimit", "\"default\";r=50;t=30")], &[window(100, 60, 50, 30)]),
        (&[("rAtElImIt-pOlIcY", " default ; w=60 ; q=100 ;x=1;y ")], &[window(100, 60, None, None)]),
        (
            &[
                ("RateLimit-Policy", "\"a, b\";q=10;w=1;pk=:dHJpYWw=:, \"day\";q=5000;w=86400;qu=\"requests\""),
                ("RateLimit", "\"day\";r=4000;t=40000"),
                ("RateLimit", "\"a, b\";r=9;t=1"),
            ],
            &[window(10, 1, 9, 1), window(5_000, 86_400, 4_000, 40_000)],
        ),
        (&[("RateLimit", "\"default\";r=50;t=30")], &[window(0, 0, 50, 30)]),
        (&[("RateLimit", "\"default\";r=50;t=30;q=100;w=60")], &[window(100, 60, 50, 30)]),
        // Bytes and connections are not requests.
        (&[("RateLimit-Policy", "\"b\";q=100;w=60;qu=\"content-bytes\""), ("RateLimit", "\"b\";r=1;t=60")], &[]),
    ]);
}

#[test]
fn the_forms_of_earlier_drafts_are_read() {
    assert_read(&[
        // Draft 07.
        (
            &[("RateLimit-Policy", "100;w=60"), ("RateLimit", "limit=100, remaining=50, reset=5")],
            &[window(100, 60, 50, 5)],
        ),
        (&[("RateLimit", "Limit=100,remaining=50 , reset=5")], &[window(100, 0, 50, 5)]),
        (
            &[("RateLimit-Policy", "10;w=1, 1000;w=3600"), ("RateLimit", "limit=1000, remaining=50, reset=5")],
            &[window(10, 1, None, None), window(1_000, 3_600, 50, 5)],
        ),
        // Drafts 03 to 06.
        (
            &[("RateLimit-Limit", "100"), ("RateLimit-Remaining", "50"), ("RateLimit-Reset", "5")],
            &[window(100, 0, 50, 5)],
        ),
        (
            &[("RateLimit-Limit", "100, 100;w=60"), ("RateLimit-Remaining", "50"), ("RateLimit-Reset", "5")],
            &[window(100, 60, 50, 5)],
        ),
        (
            &[
                ("RateLimit-Limit", "10"),
                ("RateLimit-Policy", "10;w=1, 50;w=60;comment=\"x;w=5,\""),
                ("RateLimit-Remaining", "3"),
                ("RateLimit-Reset", "1"),
            ],
            &[window(10, 1, 3, 1), window(50, 60, None, None)],
        ),
        (
            &[
                ("RateLimit-Policy", "100;w=60"),
                ("RateLimit-Remaining", "50"),
                ("RateLimit-Remaining", "40"),
                ("RateLimit-Reset", "5"),
            ],
            &[window(100, 60, 40, 5)],
        ),
        // Envoy.
        (
            &[
                ("x-ratelimit-limit", "10, 10;w=1;name=\"a\", 500;w=60"),
                ("x-ratelimit-remaining", "9"),
                ("x-ratelimit-reset", "1"),
            ],
            &[window(10, 1, 9, 1), window(500, 60, None, None)],
        ),
    ]);
}

#[test]
fn kong_tells_several_windows_and_the_reset_of_the_one_that_is_used_up_first() {
    let told = read(&[
        ("X-RateLimit-Limit-Minute", "60"),
        ("X-RateLimit-Remaining-Minute", "12"),
        ("X-RateLimit-Limit-second", "5"),
        ("X-RateLimit-Remaining-second", "4"),
        ("X-RateLimit-Limit-Day", "1000"),
        ("RateLimit-Limit", "5"),
        ("RateLimit-Remaining", "4"),
        ("RateLimit-Reset", "1"),
    ]);
    assert_eq!(told, [window(5, 1, 4, 1), window(60, 60, 12, None), window(1_000, 86_400, None, None)]);
    // Of two windows with the same numbers, the longer one lasts.
    let told = read(&[
        ("X-RateLimit-Limit-Minute", "60"),
        ("X-RateLimit-Remaining-Minute", "12"),
        ("X-RateLimit-Limit-Hour", "60"),
        ("X-RateLimit-Remaining-Hour", "12"),
        ("RateLimit-Limit", "60"),
        ("RateLimit-Remaining", "12"),
        ("RateLimit-Reset", "50"),
    ]);
    assert_eq!(told, [window(60, 60, 12, None), window(60, 3_600, 12, 50)]);
}

#[test]
fn a_reset_is_a_wait_or_a_time_and_nothing_if_that_is_not_clear() {
    // 1994-11-06T08:49:37Z is 784111777, which is too small for a Unix time of today.
    let date = "Sun, 09 Sep 2001 01:46:40 GMT";
    for (reset, expected) in [
        ("30", Some(30)),
        ("0", Some(0)),
        ("29.2", Some(30)),
        ("1000000030", Some(30)),
        ("1000000030000", Some(30)),
        ("999999999", None),
        ("3000000", None),
    ] {
        let told = read(&[
            ("Date", date),
            ("X-RateLimit-Limit", "100"),
            ("X-RateLimit-Remaining", "50"),
            ("X-RateLimit-Reset", reset),
        ]);
        let expected: Vec<Window> = expected.map(|reset| window(100, 0, 50, reset)).into_iter().collect();
        assert_eq!(told, expected, "{reset}");
    }
    let undated = [("X-RateLimit-Limit", "100, 100;w=60"), ("X-RateLimit-Reset", "1000000030")];
    assert_eq!(read(&undated), [window(100, 60, None, None)]);
    let passed = read(&[("Date", date), ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1000000000")]);
    assert_eq!(passed, [window(0, 0, 0, 0)]);
}

#[test]
fn of_two_windows_of_one_length_both_are_obeyed() {
    let told = read(&[
        ("RateLimit-Policy", "\"ip\";q=1000;w=60, \"key\";q=100;w=60"),
        ("RateLimit", "\"ip\";r=5;t=30, \"key\";r=90;t=31"),
    ]);
    assert_eq!(told, [window(100, 60, 5, 31)]);
}

#[test]
fn nonsense_is_no_window_and_harms_no_other_window() {
    let good = window(7, 60, None, None);
    let long = format!("\"a\";q=1;w=60;{}", "x".repeat(1 << 20));
    let many = "9;w=9,".repeat(40_000);
    let nonsense: &[Lines<'_>] = &[
        &[("RateLimit-Policy", "")],
        &[("RateLimit-Policy", ",;,=;\"")],
        &[("RateLimit-Policy", "\"a\";q=-1;w=1")],
        &[("RateLimit-Policy", "\"a\";q=0;w=1")],
        &[("RateLimit-Policy", "\"a\";q=1;w=0")],
        &[("RateLimit-Policy", "\"a\";q=1;w=-60")],
        &[("RateLimit-Policy", "\"a\";q=NaN;w=1")],
        &[("RateLimit-Policy", "\"a\";q=1e3;w=1")],
        &[("RateLimit-Policy", "\"a\";q=1.5;w=1")],
        &[("RateLimit-Policy", "\"a\";q=99999999999999999999;w=1")],
        &[("RateLimit-Policy", "\"a\";q=1;w=99999999999999999999")],
        &[("RateLimit-Policy", "\"a\";q=1;w=4000000000")],
        &[("RateLimit-Policy", "\"a\";q=10")],
        &[("RateLimit-Policy", "-10;w=60")],
        &[("RateLimit-Policy", &long)],
        &[("RateLimit-Policy", "\"a\";q=10;w=1"), ("RateLimit", "\"a\";r=11;t=1")],
        &[("RateLimit-Policy", "\"a\";q=10;w=1"), ("RateLimit", "\"a\";r=-1;t=1")],
        &[("RateLimit-Policy", "\"a\";q=10;w=1"), ("RateLimit", "\"a\";r=1;t=9")],
        &[("RateLimit-Policy", "\"a\";q=10;w=1"), ("RateLimit", "\"a\";r=1;t=soon")],
        &[("RateLimit", "\"a\";r=1;t=4000")],
        &[("RateLimit", "\"a\";r=1")],
        &[("RateLimit", "limit=10, remaining=11, reset=5")],
        &[("RateLimit", "limit=ten, remaining=1, reset=5")],
        &[("RateLimit", "limit=10, remaining=1, reset=-5")],
        &[("RateLimit-Limit", "100")],
        &[("RateLimit-Limit", "100"), ("RateLimit-Remaining", "x"), ("RateLimit-Reset", "5")],
        &[("RateLimit-Limit", "-1"), ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "5")],
        &[("RateLimit-Remaining", "0"), ("RateLimit-Reset", "inf")],
        &[("X-RateLimit-Limit-Minute", "0"), ("X-RateLimit-Remaining-Minute", "0")],
        &[("X-RateLimit-Limit-Minute", "5"), ("X-RateLimit-Remaining-Minute", "-1")],
        &[("X-RateLimit-Limit-Minute", "5"), ("X-RateLimit-Remaining-Minute", "6")],
        &[("X-RateLimit-Remaining-Minute", "6")],
        &[("X-RateLimit-Limit-Fortnight", "5")],
    ];
    for lines in nonsense {
        assert_eq!(read(lines), [], "{lines:?}");
        let with_good = [&[("RateLimit-Policy", "\"good\";q=7;w=60")], *lines].concat();
        assert_eq!(read(&with_good), [good], "{lines:?}");
    }
    assert_eq!(read(&[("RateLimit-Policy", &many)]), [], "too long");
    assert_eq!(read(&[("RateLimit-Policy", "9;w=9,".repeat(300).as_str())]), [window(9, 9, None, None)]);
    let mut bytes = headers(&[("RateLimit-Policy", "7;w=60")]);
    bytes.append("ratelimit-policy", HeaderValue::from_bytes(b"\"\xff\";q=1;w=1").unwrap());
    assert_eq!(parse(&bytes), [good], "no text");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_every_window_is_sensible(
        lines in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
                    "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-limit-minute",
                    "x-ratelimit-remaining-minute", "x-ratelimit-limit-second", "date",
                ]),
                prop_oneof![
                    "[0-9]{0,4}", "[a-z\"]{0,2}(;[qwrt]=-?[0-9]{0,5}){0,4}(, ?[a-z\"]{1,2}(;[qwrt]=[0-9]{1,3}){0,3}){0,3}",
                    "(limit=|remaining=|reset=|,| |[0-9]{1,4}){0,9}", "[ -~]{0,40}",
                ],
            ),
            0..8,
        ),
    ) {
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let windows = read(&lines);
        prop_assert!(windows.len() <= MAX_WINDOWS);
        for (at, window) in windows.iter().enumerate() {
            prop_assert!(window.is_sensible() && window.says_something(), "{window:?}");
            prop_assert!(windows[..at].iter().all(|other| other.length != window.length), "{windows:?}");
        }
    }

    #[test]
    fn what_a_gateway_tells_in_any_form_is_what_is_read(
        limit in 1_u32..100_000, length in prop::sample::select(vec![1_u64, 60, 3_600]), part in 0.0..1.0_f64, left in 0.0..1.0_f64,
    ) {
        let remaining = (f64::from(limit) * part) as u32;
        let reset = (length as f64 * left) as u64;
        let (policy, old) = (format!("\"p\";q={limit};w={length}"), format!("{limit};w={length}"));
        let current = format!("\"p\";r={remaining};t={reset}");
        let dictionary = format!("limit={limit}, remaining={remaining}, reset={reset}");
        let (limits, both) = (limit.to_string(), format!("{limit}, {old}"));
        let (remaining_text, reset_text) = (remaining.to_string(), reset.to_string());
        let unit = KONG.iter().find(|(_, seconds)| *seconds == length).unwrap().0;
        let kong = [format!("x-ratelimit-limit-{unit}"), format!("x-ratelimit-remaining-{unit}")];
        let rest = [("ratelimit-remaining", remaining_text.as_str()), ("ratelimit-reset", reset_text.as_str())];
        let expected = [window(limit, length, remaining, reset)];
        prop_assert_eq!(read(&[("ratelimit-policy", &policy), ("ratelimit", &current)]), expected);
        prop_assert_eq!(read(&[("ratelimit-policy", &old), ("ratelimit", &dictionary)]), expected);
        prop_assert_eq!(read(&[("ratelimit-limit", &both), rest[0], rest[1]]), expected);
        let of_kong = [(kong[0].as_str(), limits.as_str()), (kong[1].as_str(), remaining_text.as_str())];
        prop_assert_eq!(read(&[of_kong[0], of_kong[1], ("ratelimit-limit", &limits), rest[0], rest[1]]), expected);
    }
}

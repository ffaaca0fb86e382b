//! Which `Host` a browser may name, and from which page a form may come. A page of somebody else's whose name suddenly leads to this
//! machine (DNS rebinding) would otherwise read ours from a browser inside, and any page could send our form.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};

/// The names under which the page may be asked for, beside every IP address and `localhost`. An address cannot be made to lead
/// elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// The names of a list with commas or white space between them.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn parse(list: &str) -> Result<Self, String> {
        let names = list.split([',', ' ', '\t', '\n']).map(str::trim).filter(|name| !name.is_empty());
        let name = |name: &str| {
            let is_known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
            if name.chars().all(is_known) {
                Ok(name.trim_end_matches('.').to_ascii_lowercase())
            } else {
                Err(format!(
                    "{name:?} is no host name; give names alone, such as sweeper.example.org: no scheme, port, path or *"
                ))
            }
        };
        names.map(name).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a request with these headers may be answered.
    ///
    /// # Errors
    /// The name in them that may not be used; empty, if there is not exactly one.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        let mut given = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (given.next(), given.next()) else { return Err(String::new()) };
        let host = String::from_utf8_lossy(host.as_bytes());
        let name = without_port(&host).trim_end_matches('.');
        let is_known = name.eq_ignore_ascii_case("localhost")
            || name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
            || self.0.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_known { Ok(()) } else { Err(name.to_owned()) }
    }

    /// Whether a form with these headers may be taken: it is not that of somebody else's page. Browsers say whose it is in `Origin`, and most
    /// of them in `Sec-Fetch-Site` (over plain HTTP on loopback alone). Who is no browser says nothing.
    ///
    /// # Errors
    /// What the browser says, as text of somebody else.
    pub(super) fn check_form(&self, headers: &HeaderMap) -> Result<(), String> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let is_foreign = |site: &&HeaderValue| *site != "same-origin" && *site != "none";
        if let Some(site) = headers.get_all("sec-fetch-site").iter().find(is_foreign) {
            return Err(format!("Sec-Fetch-Site {:?}", text(site)));
        }
        let host = headers.get(header::HOST).map(text).unwrap_or_default();
        let is_foreign = |origin: &&HeaderValue| !self.is_ours(&text(origin), &host);
        match headers.get_all(header::ORIGIN).iter().find(is_foreign) {
            Some(origin) => Err(format!("Origin {:?}", text(origin))),
            None => Ok(()),
        }
    }

    /// Whether an origin is that of the page which was asked for under `host`, or has a name of the list: a proxy may ask under another
    /// name and port than the browser. `null` is nobody's.
    fn is_ours(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let usual_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return false,
        };
        let bare = |authority: &str| authority.strip_suffix(usual_port).unwrap_or(authority).to_ascii_lowercase();
        let name = without_port(authority);
        bare(authority) == bare(host) || self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &Hosts, given: &[&str]) -> Result<(), String> {
        let headers = given.iter().map(|host| (header::HOST, host.parse().unwrap())).collect();
        hosts.check(&headers)
    }

    #[test]
    fn addresses_localhost_and_the_given_names_may_be_named() {
        let hosts = Hosts::parse(" sweeper.example.org, Other. third_one").unwrap();
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "10.0.0.7:80",
            "[::1]",
            "[::1]:9464",
            "[fe80::1]:1",
            "sweeper.example.org",
            "Sweeper.Example.org.:9464",
            "other",
            "third_one:1",
        ] {
            assert_eq!(check(&hosts, &[host]), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "x.sweeper.example.org", "*", ""]
        {
            assert!(check(&hosts, &[host]).is_err(), "{host}");
        }
        assert!(check(&Hosts::default(), &["sweeper.example.org"]).is_err());
        assert_eq!(check(&hosts, &[]), Err(String::new()));
        assert_eq!(check(&hosts, &["localhost", "localhost"]), Err(String::new()));
        assert_eq!(check(&hosts, &["evil.example:99"]), Err("evil.example".to_owned()));
    }

    #[test]
    fn a_form_is_taken_from_our_own_page_or_from_who_is_no_browser() {
        let hosts = Hosts::parse("sweeper.example.org").unwrap();
        let check = |host: &str, said: &[(&'static str, &str)]| {
            let host = [("host", host)];
            let headers =
                said.iter().chain(&host).map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            hosts.check_form(&headers)
        };
        for (host, said) in [
            ("127.0.0.1:9464", &[][..]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1:9464")]),
            ("[::1]:9464", &[("origin", "http://[::1]:9464")]),
            ("LOCALHOST:80", &[("origin", "http://localhost")]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1:9464"), ("sec-fetch-site", "same-origin")]),
            ("127.0.0.1:9464", &[("sec-fetch-site", "none")]),
            // Behind a proxy with TLS: one that passes the name on, one that leaves out the port, and one that does neither.
            ("sweeper.example.org", &[("origin", "https://sweeper.example.org")]),
            ("sweeper.example.org", &[("origin", "https://sweeper.example.org:8443")]),
            ("127.0.0.1:9464", &[("origin", "https://Sweeper.example.org")]),
        ] {
            assert_eq!(check(host, said), Ok(()), "{host} {said:?}");
        }
        for (host, said) in [
            ("127.0.0.1:9464", &[("origin", "null")][..]),
            ("127.0.0.1:9464", &[("origin", "")]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1:9465")]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1")]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1:9464.evil.example")]),
            ("127.0.0.1:9464", &[("origin", "http://localhost:9464")]),
            ("127.0.0.1:9464", &[("origin", "https://evil.example")]),
            ("127.0.0.1:9464", &[("origin", "https://sweeper.example.org.evil.example")]),
            ("127.0.0.1:9464", &[("origin", "file://127.0.0.1:9464")]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1:9464"), ("origin", "https://evil.example")]),
            ("127.0.0.1:9464", &[("origin", "http://127.0.0.1:9464"), ("sec-fetch-site", "cross-site")]),
            ("127.0.0.1:9464", &[("sec-fetch-site", "same-site")]),
            ("127.0.0.1:9464", &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]),
        ] {
            assert!(check(host, said).is_err(), "{host} {said:?}");
        }
        assert_eq!(check("a", &[("origin", "null")]), Err("Origin \"null\"".to_owned()));
    }

    #[test]
    fn a_name_is_no_url_and_no_pattern() {
        for bad in ["http://a", "a:80", "a/b", "*.example.org", "é"] {
            assert!(Hosts::parse(bad).unwrap_err().contains("no host name"), "{bad}");
        }
        assert!(Hosts::parse("").unwrap().0.is_empty());
    }
}

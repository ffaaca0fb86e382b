//! Who may see the names of agents and IDs: whoever knows the token.
//!
//! A script sends the token as a bearer. A browser sends it once, in a form, and gets a cookie. The cookie has a number, the time at which
//! it ends, and a signature with a key that this process has drawn: no token is in it, and it is worth nothing to another process or
//! after a restart. The numbers of the cookies in use are kept here, so a cookie ends with its logout, also where somebody has copied it.

use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use ring::{hmac, rand::SystemRandom};
use secrecy::{ExposeSecret as _, SecretString};

use crate::model::clock::{Clock, Timestamp};

/// A shorter token could be guessed.
const LEAST_LENGTH: usize = 16;
/// The longest token that is accepted.
const MOST_LENGTH: usize = 256;
/// How long a cookie is good for.
const COOKIE_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// After a wrong token, another one from the same address is looked at only after this time.
const PAUSE: Duration = Duration::from_secs(1);
/// The cookies that are good at a time. For one more, the oldest ends.
const MOST_COOKIES: usize = 1_024;
/// The addresses whose last wrong token is remembered. Whoever has more of them is not slowed down: the defence is the token's length.
const MOST_ADDRESSES: usize = 1_024;

/// The token.
#[derive(Clone, Debug)]
pub struct Token(SecretString);

impl Token {
    /// The token in `text`, without the white space around it.
    ///
    /// # Errors
    /// What is wrong with it, without a part of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let token = text.trim();
        if !(LEAST_LENGTH..=MOST_LENGTH).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "must be one line of {LEAST_LENGTH} to {MOST_LENGTH} printable ASCII characters without spaces; `openssl rand -hex 16` makes one"
            ));
        }
        Ok(Self(token.into()))
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// Nobody is shown names: there is no token.
    Off,
    /// Has given no token, or the cookie is too old.
    Stranger,
    /// Has given the token.
    Known,
}

/// How a token comes. Each way has a pause of its own: a script with an old token must not keep people out of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In the form.
    Form,
    /// In the header `Authorization`.
    Bearer,
}

/// What a token came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is the token.
    Right,
    /// It is not, or there is none.
    Wrong,
    /// It was not looked at: the last one that came from this address in this way was wrong, a moment ago.
    TooSoon,
}

/// Checks tokens and cookies.
pub(super) struct Keeper {
    /// Drawn anew at each start.
    key: hmac::Key,
    /// The tag of the token, if there is one. Tags are compared in constant time.
    token: Option<hmac::Tag>,
    /// The name of the cookie. Browsers send cookies to every port of a host, so it has the port in it.
    cookie: String,
    clock: Clock,
    wrong: Mutex<VecDeque<WrongToken>>,
    in_use: Mutex<InUse>,
}

/// The last wrong token from an address.
struct WrongToken {
    address: IpAddr,
    way: Way,
    /// Its tag. The same token again is no new guess, so a script that has an old one lets others from its address in.
    tag: hmac::Tag,
    /// When another one may come, in elapsed time.
    until: Duration,
}

/// The cookies that were given and not taken away.
#[derive(Debug, Default)]
struct InUse {
    /// The number of the newest one.
    last: u64,
    /// The numbers of all, the oldest first.
    numbers: VecDeque<u64>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("is_on", &self.token.is_some()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Checks against `token`, for the server on `port`.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(super) fn new(token: Option<&Token>, port: u16, clock: Clock) -> Result<Self, ring::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        let token = token.map(|token| hmac::sign(&key, said(token.0.expose_secret()).as_bytes()));
        let cookie = format!("sweeper_{port}");
        Ok(Self { key, token, cookie, clock, wrong: Mutex::default(), in_use: Mutex::default() })
    }

    /// Who asks with these headers, from `address`.
    ///
    /// # Errors
    /// If there is a bearer, and it is not the token.
    pub(super) fn visitor(&self, headers: &HeaderMap, address: IpAddr) -> Result<Visitor, Attempt> {
        if self.token.is_none() {
            return Ok(Visitor::Off);
        }
        if let Some(bearer) = bearer(headers) {
            return match self.attempt(&bearer, Way::Bearer, address) {
                Attempt::Right => Ok(Visitor::Known),
                attempt @ (Attempt::Wrong | Attempt::TooSoon) => Err(attempt),
            };
        }
        let is_known = self.good_cookies(headers).next().is_some();
        Ok(if is_known { Visitor::Known } else { Visitor::Stranger })
    }

    /// Looks at a token that has come in this way from `address`.
    pub(super) fn attempt(&self, given: &str, way: Way, address: IpAddr) -> Attempt {
        let Some(token) = &self.token else { return Attempt::Wrong };
        let now = self.clock.elapsed();
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let tag = hmac::sign(&self.key, said(given.trim()).as_bytes());
        let last = wrong.iter().position(|last| (last.address, last.way) == (address, way));
        if let Some(last) = last.and_then(|at| wrong.get(at)) {
            if last.tag.as_ref() == tag.as_ref() {
                return Attempt::Wrong;
            }
            if last.until > now {
                return Attempt::TooSoon;
            }
        }
        if hmac::verify(&self.key, said(given.trim()).as_bytes(), token.as_ref()).is_ok() {
            return Attempt::Right;
        }
        match last {
            Some(at) => drop(wrong.remove(at)),
            None if wrong.len() >= MOST_ADDRESSES => drop(wrong.pop_front()),
            None => {}
        }
        wrong.push_back(WrongToken { address, way, tag, until: now + PAUSE });
        Attempt::Wrong
    }

    /// The `Set-Cookie` header for who has given the token.
    pub(super) fn cookie(&self) -> String {
        let until = self.clock.now().plus(COOKIE_LIFE);
        let number = self.in_use.lock().unwrap_or_else(PoisonError::into_inner).next();
        let tag = hmac::sign(&self.key, cookie_said(until, number).as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.header(&format!("{until}.{number}.{hex}"), COOKIE_LIFE)
    }

    /// Ends the cookie in these headers, and returns the `Set-Cookie` header that removes it from the browser.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> String {
        let ended: Vec<u64> = self.good_cookies(headers).collect();
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.numbers.retain(|number| !ended.contains(number));
        self.header("", Duration::ZERO)
    }

    fn header(&self, value: &str, life: Duration) -> String {
        format!("{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict", self.cookie, life.as_secs())
    }

    /// The numbers of the good cookies in these headers.
    fn good_cookies(&self, headers: &HeaderMap) -> impl Iterator<Item = u64> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == self.cookie).filter_map(|(_, value)| self.good(value))
    }

    /// The number of a cookie, if the cookie is good.
    fn good(&self, cookie: &str) -> Option<u64> {
        let (until, rest) = cookie.split_once('.')?;
        let (number, hex) = rest.split_once('.')?;
        let (until, number) = (until.parse().map(Timestamp).ok()?, number.parse().ok()?);
        let byte = |at: usize| hex.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
        let tag: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        hmac::verify(&self.key, cookie_said(until, number).as_bytes(), &tag?).ok()?;
        let is_in_use = || self.in_use.lock().unwrap_or_else(PoisonError::into_inner).numbers.contains(&number);
        (until > self.clock.now() && is_in_use()).then_some(number)
    }
}

impl InUse {
    /// The number of a new cookie.
    fn next(&mut self) -> u64 {
        if self.numbers.len() >= MOST_COOKIES {
            self.numbers.pop_front();
        }
        self.last += 1;
        self.numbers.push_back(self.last);
        self.last
    }
}

/// What is signed of a token. It differs from whatever is signed of a cookie.
fn said(token: &str) -> String {
    format!("token {token}")
}

fn cookie_said(until: Timestamp, number: u64) -> String {
    format!("cookie {number} until {until}")
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::AUTHORIZATION)?;
    let given = String::from_utf8_lossy(given.as_bytes());
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn keeper() -> (Keeper, Clock) {
        let clock = Clock::manual(Timestamp(1_764_000_000_000));
        (Keeper::new(Some(&Token::parse(TOKEN).unwrap()), 9464, clock.clone()).unwrap(), clock)
    }

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    /// The part of a `Set-Cookie` header that a browser sends back.
    fn sent_back(cookie: &str) -> HeaderMap {
        with(header::COOKIE, &format!("other=1; {}", cookie.split(';').next().unwrap()))
    }

    #[test]
    fn a_cookie_is_good_for_half_a_day_and_for_its_process_alone() {
        let (keeper, clock) = keeper();
        let cookie = keeper.cookie();
        assert!(!cookie.contains(TOKEN) && cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
        assert_eq!(keeper.visitor(&sent_back(&cookie), HERE), Ok(Visitor::Known));
        let (other, _) = self::keeper();
        assert_eq!(other.visitor(&sent_back(&cookie), HERE), Ok(Visitor::Stranger));
        let later = cookie.replacen("=17", "=18", 1);
        assert_ne!(later, cookie);
        assert_eq!(
            keeper.visitor(&sent_back(&later), HERE),
            Ok(Visitor::Stranger),
            "its end is part of what is signed"
        );
        for forged in
            ["", ".", "..", "9999999999999.", "9999999999999.1", "9999999999999.1.é", "9999999999999.1.00", "x.1.ff"]
        {
            assert_eq!(keeper.good(forged), None, "{forged}");
        }
        clock.advance(COOKIE_LIFE - Duration::from_millis(1));
        assert_eq!(keeper.visitor(&sent_back(&cookie), HERE), Ok(Visitor::Known));
        clock.advance(Duration::from_millis(1));
        assert_eq!(keeper.visitor(&sent_back(&cookie), HERE), Ok(Visitor::Stranger));
    }

    #[test]
    fn a_logout_ends_its_cookie_wherever_it_is_and_no_other() {
        let (keeper, _) = keeper();
        // At the same moment.
        let (mine, others) = (keeper.cookie(), keeper.cookie());
        assert_ne!(mine, others);
        let removal = keeper.log_out(&sent_back(&mine));
        assert_eq!(removal, "sweeper_9464=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
        assert_eq!(keeper.visitor(&sent_back(&removal), HERE), Ok(Visitor::Stranger));
        assert_eq!(keeper.visitor(&sent_back(&mine), THERE), Ok(Visitor::Stranger), "a copy has ended, too");
        assert_eq!(keeper.visitor(&sent_back(&others), HERE), Ok(Visitor::Known));
        // Whoever has no cookie, or one that is over, ends none.
        keeper.log_out(&HeaderMap::new());
        keeper.log_out(&sent_back(&mine));
        assert_eq!(keeper.visitor(&sent_back(&others), HERE), Ok(Visitor::Known));
        let newest = (0..5_000).map(|_| keeper.cookie()).last().unwrap();
        assert_eq!(keeper.in_use.lock().unwrap().numbers.len(), MOST_COOKIES);
        assert_eq!(keeper.visitor(&sent_back(&newest), HERE), Ok(Visitor::Known));
        assert_eq!(keeper.visitor(&sent_back(&others), HERE), Ok(Visitor::Stranger), "the oldest has ended");
    }

    #[test]
    fn after_a_wrong_token_its_address_waits_and_no_other() {
        let (keeper, clock) = keeper();
        for (way, other) in [(Way::Form, Way::Bearer), (Way::Bearer, Way::Form)] {
            assert_eq!(keeper.attempt("0123456789abcdeg", way, HERE), Attempt::Wrong);
            assert_eq!(
                keeper.attempt(TOKEN, way, HERE),
                Attempt::TooSoon,
                "the right one is not told from a wrong one"
            );
            assert_eq!(keeper.attempt(TOKEN, way, THERE), Attempt::Right);
            assert_eq!(keeper.attempt(TOKEN, other, HERE), Attempt::Right, "{way:?} does not count for {other:?}");
            // The same again is no new guess.
            assert_eq!(keeper.attempt("0123456789abcdeg", way, HERE), Attempt::Wrong);
            clock.advance(PAUSE);
            assert_eq!(keeper.attempt("0123456789abcdeg", way, HERE), Attempt::Wrong);
            assert_eq!(keeper.attempt(TOKEN, way, HERE), Attempt::Right);
            assert_eq!(keeper.attempt("0123456789abcdeh", way, HERE), Attempt::Wrong);
            assert_eq!(keeper.attempt(TOKEN, way, HERE), Attempt::TooSoon);
            clock.advance(PAUSE);
        }
        assert_eq!(keeper.attempt("", Way::Form, HERE), Attempt::Wrong);
        for address in 0..5_000_u32 {
            keeper.attempt("wrong", Way::Bearer, IpAddr::V4(address.into()));
        }
        assert_eq!(keeper.wrong.lock().unwrap().len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_bearer_is_the_token_or_an_error_and_without_a_token_nobody_is_known() {
        let (keeper, clock) = keeper();
        let bearer = |token: &str| with(header::AUTHORIZATION, &format!("bearer {token}"));
        assert_eq!(keeper.visitor(&bearer(TOKEN), HERE), Ok(Visitor::Known));
        assert_eq!(keeper.visitor(&bearer("wrong"), HERE), Err(Attempt::Wrong));
        assert_eq!(keeper.visitor(&bearer(TOKEN), HERE), Err(Attempt::TooSoon));
        assert_eq!(keeper.visitor(&with(header::AUTHORIZATION, "Basic eDp5"), HERE), Ok(Visitor::Stranger));
        let off = Keeper::new(None, 1, clock).unwrap();
        assert_eq!(off.visitor(&bearer(TOKEN), HERE), Ok(Visitor::Off));
        assert_eq!(off.attempt("", Way::Form, HERE), Attempt::Wrong);
        assert_eq!(off.visitor(&sent_back(&off.cookie()), HERE), Ok(Visitor::Off));
    }

    #[test]
    fn a_token_is_long_and_one_word() {
        for bad in [
            "",
            "short",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789\nabcdef",
            "0123456789abcdeé",
            &"x".repeat(257),
        ] {
            assert!(Token::parse(bad).unwrap_err().contains("16 to 256"), "{bad}");
        }
        Token::parse("  0123456789abcdef\n").unwrap();
    }
}

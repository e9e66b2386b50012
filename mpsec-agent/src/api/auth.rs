//! Basic authentication against bcrypt hashes, at the price of one bcrypt a user and not one a request.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who may come in.
pub(super) struct Users {
    /// bcrypt hashes by user name.
    hashes: BTreeMap<String, String>,
    /// What unknown users are compared against: the costliest of the hashes, so that they cannot be told by the time.
    decoy: String,
    salt: [u8; 32],
    /// Salted digests of passwords that were right. Only a right password enters, so there is one a user at most.
    known: Mutex<HashMap<String, [u8; 32]>>,
    turns: Turns,
}

/// bcrypt takes a core for a tenth of a second or more. One at a time leaves the others to the host, and a short queue
/// keeps guessers from filling all connections with requests that wait.
#[derive(Clone)]
struct Turns {
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// How many passwords may wait for bcrypt.
const MAX_WAITING: usize = 16;

/// What a password is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is this user's.
    Right,
    /// It is not, or there is no such user.
    Wrong,
    /// Too many others are being checked.
    Busy,
}

impl Users {
    /// `hashes` are valid and at least one. What the users before have proven holds on for as long as their hash does.
    pub(super) fn new(hashes: BTreeMap<String, String>, before: Option<&Users>) -> Option<Users> {
        let decoy = hashes.values().max_by_key(|hash| cost(hash))?.clone();
        let salt = before.map_or_else(random, |users| users.salt);
        let mut known = before.map(|users| users.known().clone()).unwrap_or_default();
        known.retain(|user, _| {
            let then = before.and_then(|users| users.hashes.get(user));
            then.is_some() && then == hashes.get(user)
        });
        // Old and new users take turns together, so a reload under load starts no second queue.
        let turns = before.map_or_else(Turns::new, |users| users.turns.clone());
        Some(Users { hashes, decoy, salt, known: Mutex::new(known), turns })
    }

    /// Judges a password. Slow the first time, and whenever it is wrong.
    pub(super) async fn check(&self, user: String, password: Vec<u8>) -> Verdict {
        let digest = self.digest(&password);
        if self.has_proven(&user, &digest) {
            return Verdict::Right;
        }
        let Some(turn) = self.turns.take().await else { return Verdict::Busy };
        // Another connection of this user may have been before in the queue.
        if self.has_proven(&user, &digest) {
            return Verdict::Right;
        }
        let hash = self.hashes.get(&user).unwrap_or(&self.decoy).clone();
        // The turn goes along: a client that goes away does not end its bcrypt.
        let verify = move || (bcrypt::verify(password, &hash), turn);
        let verified = tokio::task::spawn_blocking(verify).await;
        if !matches!(verified, Ok((Ok(true), _))) || !self.hashes.contains_key(&user) {
            return Verdict::Wrong;
        }
        self.known().insert(user, digest);
        Verdict::Right
    }

    fn has_proven(&self, user: &str, digest: &[u8; 32]) -> bool {
        self.known().get(user).is_some_and(|known| same(known, digest))
    }

    fn digest(&self, password: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.salt).chain_update(password).finalize().into()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, [u8; 32]>> {
        // An insertion is whole or has not happened.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    fn new() -> Self {
        Turns { waiting: Arc::new(Semaphore::new(MAX_WAITING)), running: Arc::new(Semaphore::new(1)) }
    }

    /// Waits for a turn, unless too many do already.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = self.waiting.try_acquire().ok()?;
        // Never closed, so it does not fail.
        self.running.clone().acquire_owned().await.ok()
    }
}

/// The user name and password of an `Authorization: Basic` header.
pub(super) fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = base64(encoded.trim_ascii())?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

/// Why a text is no bcrypt hash that can be checked, if so.
pub(super) fn hash_problem(hash: &str) -> Option<String> {
    let expected = "expected a bcrypt hash such as `htpasswd -nBC 10 \"\"` writes, $2y$10$...";
    match hash.parse::<bcrypt::HashParts>() {
        Err(error) => Some(format!("{error}; {expected}")),
        Ok(parts) if !(4..=MAX_COST).contains(&parts.get_cost()) => {
            Some(format!("bcrypt cost {}: expected 4 to {MAX_COST}; {expected}", parts.get_cost()))
        }
        Ok(_) => None,
    }
}

/// A login at cost 18 takes some 20 s. Beyond that no client would wait, and each try would block the others.
const MAX_COST: u32 = 18;

fn cost(hash: &str) -> u32 {
    hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost())
}

/// Compares without telling by the time where the difference is.
pub(super) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    difference == 0
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut bytes).expect("getrandom(2) fails only on kernels older than those that the agent runs on");
    bytes
}

/// Decodes the standard alphabet, padded or not.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &text[..text.len() - padding];
    if padding > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for &digit in group {
            bits = bits << 6 | sextet(digit)?;
        }
        bits <<= 6 * (4 - group.len());
        decoded.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(decoded)
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(list: &[(&str, &str)], before: Option<&Users>) -> Users {
        let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
        Users::new(list.iter().map(|(user, password)| ((*user).to_owned(), hash(password))).collect(), before).unwrap()
    }

    #[test]
    fn base64_decodes_what_clients_send() {
        let table: &[(&str, Option<&str>)] = &[
            ("", Some("")),
            ("YQ==", Some("a")),
            ("YWI=", Some("ab")),
            ("YWJj", Some("abc")),
            ("YWJjZA", Some("abcd")),
            ("QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Some("Aladdin:open sesame")),
            ("A", None),
            ("YQ===", None),
            ("Y Q=", None),
            ("Y=Q=", None),
        ];
        for (encoded, decoded) in table {
            assert_eq!(base64(encoded.as_bytes()), decoded.map(|text| text.as_bytes().to_vec()), "{encoded:?}");
        }
    }

    #[test]
    fn credentials_split_at_the_first_colon() {
        let given = |header: &str| credentials(header.as_bytes());
        assert_eq!(given("Basic YTpiOmM="), Some(("a".into(), b"b:c".to_vec())));
        assert_eq!(given("basic  Ojo="), Some((String::new(), b":".to_vec())));
        assert_eq!(given("Basic YWI="), None, "no colon");
        assert_eq!(given("Bearer YTpi"), None);
        assert_eq!(given("Basi"), None);
    }

    #[test]
    fn hashes_are_checked_before_use() {
        assert_eq!(hash_problem("$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"), None);
        assert!(hash_problem("hunter2").unwrap().contains("expected a bcrypt hash"));
        let costly = "$2y$31$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        assert!(hash_problem(costly).unwrap().contains("expected 4 to 18"));
    }

    async fn is_right(users: &Users, user: &str, password: &str) -> bool {
        users.check(user.into(), password.into()).await == Verdict::Right
    }

    #[tokio::test]
    async fn only_right_passwords_are_remembered_and_only_with_their_hash() {
        let first = users(&[("ann", "apple"), ("bob", "beer")], None);
        assert!(!is_right(&first, "ann", "beer").await);
        assert!(!is_right(&first, "eve", "apple").await, "unknown");
        assert!(!is_right(&first, "", "").await);
        assert_eq!(first.known().len(), 0);
        assert!(is_right(&first, "ann", "apple").await);
        assert!(is_right(&first, "bob", "beer").await);
        assert!(is_right(&first, "ann", "apple").await, "remembered");
        assert!(!is_right(&first, "ann", "apples").await);
        assert_eq!(first.known().len(), 2);

        let mut hashes = first.hashes.clone();
        hashes.insert("bob".into(), bcrypt::hash("bread", 4).unwrap());
        let second = Users::new(hashes, Some(&first)).unwrap();
        assert_eq!(second.known().len(), 1, "bob has a new password");
        assert!(!is_right(&second, "bob", "beer").await);
        assert!(is_right(&second, "bob", "bread").await);
    }

    #[tokio::test]
    async fn the_decoy_never_lets_in() {
        let users = users(&[("ann", "apple")], None);
        assert_eq!(&users.decoy, users.hashes.values().next().unwrap());
        assert!(!is_right(&users, "unknown", "apple").await, "the password of the decoy");
    }

    #[tokio::test]
    async fn guessers_fill_a_short_queue_and_the_known_pass_by_it() {
        let users = users(&[("ann", "apple")], None);
        assert!(is_right(&users, "ann", "apple").await);
        let running = users.turns.running.clone().acquire_owned().await.unwrap();
        let waiting = users.turns.waiting.clone().try_acquire_many_owned(MAX_WAITING as u32).unwrap();
        assert_eq!(users.check("ann".into(), b"guess".to_vec()).await, Verdict::Busy);
        assert!(is_right(&users, "ann", "apple").await);
        drop((running, waiting));
        assert_eq!(users.check("ann".into(), b"guess".to_vec()).await, Verdict::Wrong);
    }
}

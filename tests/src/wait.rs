//! Waiting for a condition with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::need;

/// Pause between two looks: short against every deadline, long against the cost of a look.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` succeeds. After `limit`, which is longer where the machine is emulated, the last failure is the error:
/// it says what was still wrong.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = need::patience(limit);
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("not so within {} ms", limit.as_millis()));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Proves that `look` holds from now on for all of `span`.
pub fn throughout(span: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        look().with_context(|| format!("not so after {} ms", start.elapsed().as_millis()))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

//! Clocks, rounds and medians.

use std::io;
use std::time::Duration;

/// Time that this thread has spent on a CPU, in the kernel and outside. Time in which others were given the CPU is not in
/// it, which is what makes it fit for a shared machine.
pub fn thread_cpu() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of this process, all its threads together, those that have ended too.
pub fn own_cpu() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a whole timespec.
    let result = unsafe { libc::clock_gettime(id, &raw mut time) };
    assert_eq!(result, 0, "the clocks of threads and processes are always there");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time of this thread for one call of `work`, and what it returned.
pub fn cpu_time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = thread_cpu();
    let result = work();
    (thread_cpu() - start, result)
}

/// CPU time of a whole process so far, with that of its threads that have ended.
pub fn process_cpu(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a local of the right type.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    match unsafe { libc::clock_gettime(clock, &raw mut time) } {
        0 => Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The value in the middle; of an even number, the mean of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Values of the same rounds, each against the other's.
pub fn pairs(values: &[f64], anchors: &[f64], with: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    values.iter().zip(anchors).map(|(value, anchor)| with(*value, *anchor)).collect()
}

/// Runs every subject (told the round and its own number) once a round, so that what disturbs a stretch of time disturbs all alike. Every other round goes
/// backwards, so that none always follows the same one.
pub fn interleave<E>(
    rounds: usize,
    subjects: usize,
    mut run: impl FnMut(usize, usize) -> Result<f64, E>,
) -> Result<Vec<Vec<f64>>, E> {
    let mut results = vec![Vec::with_capacity(rounds); subjects];
    for round in 0..rounds {
        for step in 0..subjects {
            let subject = if round % 2 == 0 { step } else { subjects - 1 - step };
            results[subject].push(run(round, subject)?);
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn rounds_go_back_and_forth() {
        let mut order = Vec::new();
        let run = |_, subject| {
            order.push(subject);
            Ok::<_, ()>(subject as f64)
        };
        assert_eq!(interleave(2, 3, run).unwrap(), [[0.0; 2], [1.0; 2], [2.0; 2]]);
        assert_eq!(order, [0, 1, 2, 2, 1, 0]);
    }

    #[test]
    fn a_busy_thread_takes_time() {
        let (time, _) = cpu_time(|| (0..1_000_000u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
        assert!(time > Duration::ZERO);
    }
}

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::*;

/// Predicts x·(1 + t) + class. It records the rows of every call, waits at a gate, fails for class 9 and panics at time
/// 666.
struct Fake {
    calls: Arc<Mutex<Vec<usize>>>,
    gate: Arc<AtomicBool>,
}

impl Denoiser for Fake {
    fn shape(&self) -> [usize; 3] {
        [1, 1, 2]
    }

    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        self.calls.lock().unwrap().push(times.len());
        while !self.gate.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_micros(100));
        }
        assert!(!times.contains(&Time::new(666)), "time 666");
        if conditions.contains(&Condition::Class(9)) {
            return Err(Error::argument("class 9"));
        }
        let mut y = x_t.clone();
        for (i, mut row) in y.outer_iter_mut().enumerate() {
            let class = conditions[i].class().unwrap_or(0);
            row.mapv_inplace(|x| x * (1.0 + times[i].get()) as f32 + class as f32);
        }
        Ok(y)
    }
}

struct Stage {
    network: SharedNetwork,
    calls: Arc<Mutex<Vec<usize>>>,
    gate: Arc<AtomicBool>,
}

impl Stage {
    fn new(most: usize, open: bool) -> Self {
        let (calls, gate) = (Arc::default(), Arc::new(AtomicBool::new(open)));
        let fake = Fake { calls: Arc::clone(&calls), gate: gate.clone() };
        Self { network: SharedNetwork::start(fake, most, Box::new(|_, _| ())).unwrap(), calls, gate }
    }

    fn open(&self) {
        self.gate.store(true, Ordering::SeqCst);
    }

    /// Waits until the network is asked.
    fn busy(&self, calls: usize) {
        while self.calls.lock().unwrap().len() < calls {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

fn images(n: usize, from: f32) -> Array4<f32> {
    Array4::from_shape_fn((n, 1, 1, 2), |(i, _, _, j)| from + (2 * i + j) as f32)
}

fn expected(x: &Array4<f32>, t: u32, class: usize) -> Array4<f32> {
    x.mapv(|x| x * (1 + t) as f32 + class as f32)
}

#[test]
fn every_request_gets_its_own_rows_back_whatever_was_in_the_call() {
    for most in [1, 2, 3, 7, 100] {
        let stage = Stage::new(most, true);
        thread::scope(|scope| {
            for i in 1..=6usize {
                let network = &stage.network;
                scope.spawn(move || {
                    let _active = network.begin_request();
                    let denoiser = network.denoiser(Cancel::new());
                    for t in 1..=20 {
                        let x = images(i, (10 * i) as f32);
                        let y = denoiser.predict(&x, &vec![Time::new(t); i], &vec![Condition::Class(i); i]).unwrap();
                        assert_eq!(y, expected(&x, t, i), "{i} rows at {t}, calls of {most}");
                    }
                });
            }
        });
        let calls = stage.calls.lock().unwrap();
        assert!(calls.iter().all(|&rows| rows <= most));
        assert_eq!(calls.iter().sum::<usize>(), 20 * (1..=6).sum::<usize>());
    }
}

#[test]
fn requests_that_wait_while_the_network_is_busy_share_the_next_call() {
    let stage = Stage::new(16, false);
    thread::scope(|scope| {
        let ask = |n: usize| {
            let denoiser = stage.network.denoiser(Cancel::new());
            scope.spawn(move || denoiser.predict(&images(n, 0.0), &vec![Time::new(1); n], &[]).unwrap())
        };
        ask(1);
        stage.busy(1);
        for n in [2, 3, 4] {
            ask(n);
        }
        thread::sleep(Duration::from_millis(30));
        stage.open();
    });
    assert_eq!(*stage.calls.lock().unwrap(), [1, 9]);
}

#[test]
fn a_cancelled_request_leaves_at_the_next_call() {
    let stage = Stage::new(4, false);
    thread::scope(|scope| {
        let cancel = Cancel::new();
        let leaver = stage.network.denoiser(cancel.clone());
        let leaver = scope.spawn(move || leaver.predict(&images(40, 0.0), &[Time::new(1); 40], &[]));
        stage.busy(1);
        let stayer = stage.network.denoiser(Cancel::new());
        let stayer = scope.spawn(move || stayer.predict(&images(4, 0.0), &[Time::new(2); 4], &[]));
        thread::sleep(Duration::from_millis(30));
        cancel.cancel();
        stage.open();
        assert_eq!(leaver.join().unwrap().unwrap_err().message(), "cancelled");
        assert_eq!(stayer.join().unwrap().unwrap(), expected(&images(4, 0.0), 2, 0));
        assert!(stage.network.denoiser(cancel).predict(&images(1, 0.0), &[Time::new(1)], &[]).is_err());
    });
    assert_eq!(*stage.calls.lock().unwrap(), [4, 4]);
}

#[test]
fn an_error_reaches_the_request_that_caused_it() {
    let stage = Stage::new(16, false);
    thread::scope(|scope| {
        let ask = |class: usize| {
            let denoiser = stage.network.denoiser(Cancel::new());
            scope.spawn(move || denoiser.predict(&images(1, 0.0), &[Time::new(1)], &[Condition::Class(class)]))
        };
        let first = ask(1);
        stage.busy(1);
        let (good, bad, other) = (ask(2), ask(9), ask(3));
        thread::sleep(Duration::from_millis(30));
        stage.open();
        assert_eq!(bad.join().unwrap().unwrap_err().message(), "class 9");
        for (asked, class) in [(first, 1), (good, 2), (other, 3)] {
            assert_eq!(asked.join().unwrap().unwrap(), expected(&images(1, 0.0), 1, class));
        }
    });
}

#[test]
fn a_panic_in_the_network_is_one_error_and_not_the_end() {
    let stage = Stage::new(16, true);
    let denoiser = stage.network.denoiser(Cancel::new());
    let error = denoiser.predict(&images(1, 0.0), &[Time::new(666)], &[]).unwrap_err();
    assert!(error.message().contains("panicked"), "{error}");
    assert_eq!(denoiser.predict(&images(1, 0.0), &[Time::new(1)], &[]).unwrap(), expected(&images(1, 0.0), 1, 0));
}

/// The noise level of one timestep: x_t = √a·x₀ + √(1−a)·ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// a_t of the DDIM paper, ᾱ_t of DDPM.
    pub alpha_bar: f64,
    /// 1 − a_t, from its own recursion: subtraction would lose its digits near t = 0.
    pub one_minus: f64,
}

impl NoiseLevel {
    /// a = 1: clean data.
    pub const CLEAN: Self = Self { alpha_bar: 1.0, one_minus: 0.0 };

    /// a = 0: pure noise, the last level of a zero-terminal-SNR schedule.
    pub const PURE_NOISE: Self = Self { alpha_bar: 0.0, one_minus: 1.0 };

    /// The level of `alpha_bar` in [0, 1]. Computes 1 − a by subtraction, which loses digits near a = 1.
    pub fn from_alpha_bar(alpha_bar: f64) -> Self {
        Self { alpha_bar, one_minus: 1.0 - alpha_bar }
    }

    /// The next noisier level, a·(1 − β) and (1 − a) + a·β.
    #[must_use]
    pub fn after(self, beta: f64) -> Self {
        Self { alpha_bar: self.alpha_bar * (1.0 - beta), one_minus: self.one_minus + self.alpha_bar * beta }
    }

    /// √a, the coefficient of x₀.
    pub fn signal(self) -> f64 {
        self.alpha_bar.sqrt()
    }

    /// √(1−a), the coefficient of ε.
    pub fn noise(self) -> f64 {
        self.one_minus.sqrt()
    }

    /// The signal-to-noise ratio a/(1−a); infinite for clean data.
    pub fn snr(self) -> f64 {
        self.alpha_bar / self.one_minus
    }

    /// σ_ve = √((1−a)/a), the noise scale of x̄ = x/√a (DDIM Eq. 14); infinite at zero SNR.
    pub fn sigma_ve(self) -> f64 {
        (self.one_minus / self.alpha_bar).sqrt()
    }

    /// ln σ_ve = −½·ln(a/(1−a)): −∞ for clean data, ∞ at zero SNR.
    pub fn log_sigma_ve(self) -> f64 {
        0.5 * (self.one_minus.ln() - self.alpha_bar.ln())
    }

    /// The level of a given ln σ_ve: a = 1/(1 + σ_ve²). Both a and 1 − a have full precision.
    pub fn from_log_sigma_ve(log_sigma: f64) -> Self {
        let odds = (2.0 * log_sigma).exp();
        Self { alpha_bar: 1.0 / (1.0 + odds), one_minus: 1.0 / (1.0 + odds.recip()) }
    }

    /// 1 − a_t/a_s, the β of a jump from s to the noisier level t = `self`. Requires a_s > 0.
    pub fn beta_from(self, s: Self) -> f64 {
        // Each form keeps its digits where the other cancels: 1 − a near clean data, a near pure noise.
        if self.alpha_bar > 0.5 {
            (self.one_minus - s.one_minus) / s.alpha_bar
        } else {
            1.0 - self.alpha_bar / s.alpha_bar
        }
    }

    /// The forward process from s to the noisier level t = `self`, q(x_t | x_s): x_t = √(a_t/a_s)·x_s + √(1 − a_t/a_s)·z. Returns
    /// both factors. Requires a_s > 0.
    pub fn jump_from(self, s: Self) -> [f64; 2] {
        let beta = self.beta_from(s).max(0.0);
        [(1.0 - beta).sqrt(), beta.sqrt()]
    }
}

//! Statistics of dependent samples: their effective sample size, and a trend test. Pure.
//!
//! Samples of a queue, or of a server that pauses, occur in clusters: a thousand of them may carry
//! as much information as ten independent ones. The effective sample size is estimated from groups
//! of neighbouring blocks of a run (batch means): the share of samples beyond a limit varies more
//! from group to group than it would if the samples were independent. Groups of every size are
//! compared, from single blocks to sixteenths of the run, and the size with the widest interval is
//! used. Where groups of every size are correlated with their neighbours, the variance of the
//! largest ones is inflated as for a first-order autoregression.
//!
//! `tests/intervals.rs` shows by simulation how often such intervals contain the true value.

use std::time::Duration;

/// Minimum number of groups of a run: with fewer, Student's factor makes an interval useless.
pub const GROUPS_LEAST: usize = 16;

/// Number of standard deviations on either side of the mean that contain 95 % of a normal
/// distribution.
pub const CONFIDENCE: f64 = 1.96;

/// Number of standard deviations above which neighbouring groups count as correlated: a test with a
/// false-positive rate of one in twenty.
const CORRELATED: f64 = 1.645;

/// Upper bound of the correlation of neighbours that is used: beyond it hardly any of the samples
/// are independent.
const CORRELATION_MOST: f64 = 0.98;

/// Number of standard deviations from which a series of values has a trend: a test with a
/// false-positive rate of one in a thousand, both directions together.
const TREND: f64 = 3.29;

/// Number of standard errors by which the trend test raises the measured correlation of neighbours,
/// since a queue that fluctuates slowly resembles one that grows.
const CORRELATION_MARGIN: f64 = 2.0;

/// Number of samples of a block, and of those beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// All samples.
    pub all: f64,
    /// The samples beyond the limit.
    pub beyond: f64,
}

/// The statistical worth of samples that depend on each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EffectiveSamples {
    /// The effective sample size: the number of independent samples that would estimate the share
    /// beyond the limit equally well.
    pub samples: f64,
    /// The factor by which an interval is wider than with a known variance, since the variance was
    /// estimated from few groups.
    pub factor: f64,
    /// Whether groups of every size were correlated with their neighbours.
    pub is_correlated: bool,
}

/// A value at a time, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The time.
    pub at: f64,
    /// The value.
    pub value: f64,
}

/// The growth or decline of a series of values from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// The change of the value per second: the median of the slopes of all pairs of values (Theil
    /// 1950, Sen 1968).
    pub slope: f64,
    /// The significance of the trend in standard deviations of a normal distribution; at least
    /// 3.29, which one series without a trend in a thousand reaches.
    pub deviations: f64,
    /// The time from the first value to the last.
    pub span: Duration,
}

/// The variance of a share, and the degrees of freedom of its estimate.
#[derive(Clone, Copy, Debug)]
struct Variance {
    value: f64,
    degrees: f64,
}

/// Returns the statistical worth of the samples of these blocks; `None`: there are too few blocks.
///
/// The variance of a share is that of a ratio over clusters (Cochran 1977, 2.11). It is never less
/// than that of independent samples.
pub fn effective_samples(blocks: &[Share]) -> Option<EffectiveSamples> {
    if blocks.len() < GROUPS_LEAST {
        return None;
    }
    let sum = |of: fn(&Share) -> f64| blocks.iter().map(of).sum::<f64>();
    let (all, beyond) = (sum(|block| block.all), sum(|block| block.beyond));
    let share = beyond / all;
    let mut widest = Variance {
        value: share * (1.0 - share) / all,
        degrees: f64::INFINITY,
    };
    let independent = widest.value;
    let mut groups = blocks.to_vec();
    let mut is_correlated = true;
    loop {
        let count = groups.len() as f64;
        let differences = groups.iter().map(|group| group.beyond - share * group.all);
        let differences: Vec<f64> = differences.collect();
        let variance = variance(&differences, all);
        widest = widest.wider(variance);
        let correlation = lag1_correlation(&differences);
        // The expected correlation of independent groups is -1 / count.
        is_correlated &= (correlation + 1.0 / count) * count.sqrt() > CORRELATED;
        if groups.len() / 2 < GROUPS_LEAST {
            if is_correlated {
                let unbiased = (correlation + 1.0 / count) / (1.0 - 3.0 / count);
                widest = widest.wider(variance.inflated(unbiased));
            }
            break;
        }
        groups = in_pairs(&groups);
    }
    let samples = match widest.value > 0.0 {
        true => all * independent / widest.value,
        false => all,
    };
    Some(EffectiveSamples {
        samples,
        factor: student(CONFIDENCE, widest.degrees) / CONFIDENCE,
        is_correlated,
    })
}

/// Returns the variance of the share among `all` samples, from the residuals of the groups. Where a
/// few groups cause most of the variance, the estimate is hardly better than from these alone: the
/// degrees of freedom follow from the fourth moment.
fn variance(differences: &[f64], all: f64) -> Variance {
    let count = differences.len() as f64;
    let moment = |power| {
        differences
            .iter()
            .map(|it: &f64| it.powi(power))
            .sum::<f64>()
            / count
    };
    let (second, fourth) = (moment(2), moment(4));
    let kurtosis = if second > 0.0 {
        fourth / (second * second)
    } else {
        1.0
    };
    Variance {
        value: second * count * count / (count - 1.0) / (all * all),
        degrees: (2.0 * count / (kurtosis - 1.0).max(0.0)).min(count - 1.0),
    }
}

impl Trend {
    /// Returns the absolute change of the value over the whole series.
    pub fn growth(&self) -> f64 {
        self.slope.abs() * self.span.as_secs_f64()
    }
}

impl Variance {
    /// Returns the variance that yields the wider interval.
    fn wider(self, other: Variance) -> Variance {
        let width = |it: Variance| it.value.sqrt() * student(CONFIDENCE, it.degrees);
        if width(other) > width(self) {
            other
        } else {
            self
        }
    }

    /// Returns this variance inflated for groups that have this correlation with their neighbours.
    fn inflated(self, correlation: f64) -> Variance {
        let correlation = correlation.clamp(0.0, CORRELATION_MOST);
        let inflation = (1.0 + correlation) / (1.0 - correlation);
        Variance {
            value: self.value * inflation,
            degrees: (self.degrees / inflation).max(1.0),
        }
    }
}

fn in_pairs(groups: &[Share]) -> Vec<Share> {
    let pairs = groups.chunks(2);
    let joined = pairs.map(|pair| Share {
        all: pair.iter().map(|half| half.all).sum(),
        beyond: pair.iter().map(|half| half.beyond).sum(),
    });
    joined.collect()
}

/// Returns the trend of a series of values, in the order of their times; `None` when there are too
/// few values, or when the trend is not significant.
///
/// The rank correlation with time is tested, with the number of independent values that follows
/// from the correlation of neighbours. Of series without a trend, one in a thousand is reported to
/// have one; up to three in a thousand where values depend on each other over a tenth of the
/// series.
pub fn trend(points: &[Point]) -> Option<Trend> {
    let (first, last) = (points.first()?, points.last()?);
    if points.len() < GROUPS_LEAST {
        return None;
    }
    let count = points.len() as f64;
    let (correlation, rest) = regress_on_index(&ranks(points));
    // Without a trend, the expected correlation of neighbouring residuals is -2 / count.
    let unbiased = (lag1_correlation(&rest) + 2.0 / count) / (1.0 - 4.0 / count);
    let error = ((1.0 - unbiased * unbiased).max(0.0) / count).sqrt();
    let cautious = (unbiased + CORRELATION_MARGIN * error).clamp(0.0, 1.0);
    let degrees = (count * (1.0 - cautious) / (1.0 + cautious) - 2.0).max(DEGREES_LEAST);
    let unexplained = (1.0 - correlation * correlation).max(f64::EPSILON);
    let deviations = deviations(correlation.abs() * (degrees / unexplained).sqrt(), degrees);
    (deviations >= TREND).then(|| Trend {
        slope: median_slope(points),
        deviations,
        span: Duration::from_secs_f64((last.at - first.at).max(0.0)),
    })
}

/// Lower bound of the degrees of freedom of a trend test: values of which each is close to the
/// previous one must lie on a line to show a trend.
const DEGREES_LEAST: f64 = 0.5;

/// Returns the rank of each value, from 0; equal values share their mean rank.
fn ranks(points: &[Point]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|one, other| points[*one].value.total_cmp(&points[*other].value));
    let mut ranks = vec![0.0; points.len()];
    let mut before = 0;
    for equal in order.chunk_by(|one, other| points[*one].value == points[*other].value) {
        let rank = before as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|place| ranks[*place] = rank);
        before += equal.len();
    }
    ranks
}

/// Returns the correlation of values with their indices, and the residuals of their linear
/// regression.
fn regress_on_index(values: &[f64]) -> (f64, Vec<f64>) {
    let middle = (values.len() - 1) as f64 / 2.0;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let pairs = values.iter().enumerate();
    let pairs = pairs.map(|(place, value)| (place as f64 - middle, value - mean));
    let sum = |of: fn((f64, f64)) -> f64| pairs.clone().map(of).sum::<f64>();
    let (places, both) = (sum(|(x, _)| x * x), sum(|(x, y)| x * y));
    let all = sum(|(_, y)| y * y);
    let correlation = if all > 0.0 {
        both / (places * all).sqrt()
    } else {
        0.0
    };
    let rest = pairs.map(|(x, y)| y - both / places * x).collect();
    (correlation, rest)
}

/// Returns the correlation of neighbouring values, given that their mean is 0.
fn lag1_correlation(values: &[f64]) -> f64 {
    let all: f64 = values.iter().map(|value| value * value).sum();
    let neighbours: f64 = values.windows(2).map(|pair| pair[0] * pair[1]).sum();
    if all > 0.0 { neighbours / all } else { 0.0 }
}

fn median_slope(points: &[Point]) -> f64 {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (place, from) in points.iter().enumerate() {
        let later = points.iter().skip(place + 1);
        slopes.extend(later.map(|to| (to.value - from.value) / (to.at - from.at)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
}

/// Converts a number of standard deviations of the normal distribution to the number of estimated
/// ones that contains the same part of Student's distribution (Wallace 1959; accurate to 1 % from
/// three degrees of freedom on).
fn student(deviations: f64, degrees: f64) -> f64 {
    if degrees.is_infinite() {
        return deviations;
    }
    let scaled = deviations * (8.0 * degrees + 3.0) / (8.0 * degrees + 1.0);
    (degrees * ((scaled * scaled / degrees).exp() - 1.0)).sqrt()
}

/// Inverts [`student`].
fn deviations(student: f64, degrees: f64) -> f64 {
    let scaled = (degrees * (1.0 + student * student / degrees).ln()).sqrt();
    scaled * (8.0 * degrees + 1.0) / (8.0 * degrees + 3.0)
}

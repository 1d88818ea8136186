//! What a number of dependent samples is worth, and whether a row of values grows. Pure.
//!
//! Samples of a queue, or of a server that pauses, come in clusters: a thousand of them may say as
//! much as ten independent ones. How much is seen from groups of neighbouring blocks of a run
//! (batch means): the share of samples beyond a limit varies more from group to group than it would
//! if samples were independent. Groups of every size are compared, from single blocks to
//! sixteenths of the run, and the size with the widest interval counts. Where even the largest
//! groups resemble their neighbours, the rest is added as for an autoregression of first order.
//!
//! `tests/intervals.rs` shows in simulation how often such intervals hold.

use std::time::Duration;

/// Groups that a run has at least: with fewer, Student's factor makes an interval useless.
pub const GROUPS_LEAST: usize = 16;

/// Standard deviations on either side that hold 95 % of a normal distribution.
pub const CONFIDENCE: f64 = 1.96;

/// Standard deviations beyond which neighbouring groups are not independent: one of twenty such
/// tests errs.
const CORRELATED: f64 = 1.645;

/// The correlation of neighbours that is reckoned with at most: beyond it hardly any of the samples
/// are independent.
const CORRELATION_MOST: f64 = 0.98;

/// Standard deviations from which a row of values has a trend: one of a thousand such tests errs,
/// in either direction.
const TREND: f64 = 3.29;

/// Standard deviations by which the correlation of neighbours is taken for higher than it was found
/// when a trend is judged, since a queue that wanders looks like one that grows.
const CAUTION: f64 = 2.0;

/// The samples of a block, and those of them beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// All of them.
    pub all: f64,
    /// Those beyond the limit.
    pub beyond: f64,
}

/// What samples are worth that depend on each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worth {
    /// How many independent samples would tell the share of those beyond the limit as well.
    pub samples: f64,
    /// How many times as wide as for a known variance an interval is, since the variance was
    /// estimated from few groups.
    pub factor: f64,
    /// True when neighbouring groups of every size resembled each other.
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

/// How a row of values grows, or falls, from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// By how much a value grows in a second: the median of the slopes of all pairs of values
    /// (Theil 1950, Sen 1968).
    pub slope: f64,
    /// How unlikely it is that there is no trend, in standard deviations of a normal distribution;
    /// at least 3.29, which is one case in a thousand.
    pub deviations: f64,
    /// The time over which the values lie.
    pub span: Duration,
}

/// The variance of a share, and how well it is known.
#[derive(Clone, Copy, Debug)]
struct Variance {
    value: f64,
    degrees: f64,
}

/// Returns what the samples of these blocks are worth; `None`: there are too few blocks.
///
/// The variance of a share is that of a ratio over clusters (Cochran 1977, 2.11). It is never less
/// than that of independent samples.
pub fn worth(blocks: &[Share]) -> Option<Worth> {
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
        let correlation = resemblance(&differences);
        // Its mean is -1 / count for independent groups.
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
    Some(Worth {
        samples,
        factor: student(CONFIDENCE, widest.degrees) / CONFIDENCE,
        is_correlated,
    })
}

/// Returns the variance of a share of so many samples, from the differences of the groups. Where a
/// few groups make most of it, it is known hardly better than from those alone: the degrees of
/// freedom follow from the fourth moment.
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
    /// Returns by how much a value grows, or falls, over the whole row; without a sign.
    pub fn growth(&self) -> f64 {
        self.slope.abs() * self.span.as_secs_f64()
    }
}

impl Variance {
    /// Returns the one with the wider interval.
    fn wider(self, other: Variance) -> Variance {
        let width = |it: Variance| it.value.sqrt() * student(CONFIDENCE, it.degrees);
        if width(other) > width(self) {
            other
        } else {
            self
        }
    }

    /// Returns the variance of groups that resemble their neighbours so much.
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

/// Returns the trend of a row of values, in the order of their times; `None` when there are too few
/// values, or none that could not be chance.
///
/// The rank correlation with time is tested, with as many independent values as the correlation of
/// neighbours leaves. Where there is no trend, one of a thousand rows is taken for one that has it;
/// up to three of a thousand where values depend on each other for a tenth of the row.
pub fn trend(points: &[Point]) -> Option<Trend> {
    let (first, last) = (points.first()?, points.last()?);
    if points.len() < GROUPS_LEAST {
        return None;
    }
    let count = points.len() as f64;
    let (correlation, rest) = against_time(&ranks(points));
    // Without a trend, ranks of a row that was cleared of one have a correlation of -2 / count.
    let unbiased = (resemblance(&rest) + 2.0 / count) / (1.0 - 4.0 / count);
    let error = ((1.0 - unbiased * unbiased).max(0.0) / count).sqrt();
    let cautious = (unbiased + CAUTION * error).clamp(0.0, 1.0);
    let degrees = (count * (1.0 - cautious) / (1.0 + cautious) - 2.0).max(DEGREES_LEAST);
    let unexplained = (1.0 - correlation * correlation).max(f64::EPSILON);
    let deviations = deviations(correlation.abs() * (degrees / unexplained).sqrt(), degrees);
    (deviations >= TREND).then(|| Trend {
        slope: median_slope(points),
        deviations,
        span: Duration::from_secs_f64((last.at - first.at).max(0.0)),
    })
}

/// Degrees of freedom that a trend has at least: values of which each is nearly the one before must
/// lie on a line to be one.
const DEGREES_LEAST: f64 = 0.5;

/// Returns the rank of each value, from 0; equal ones share their mean rank.
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

/// Returns the correlation of some values with their places, and what is left of the values without
/// it.
fn against_time(values: &[f64]) -> (f64, Vec<f64>) {
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

/// Returns the correlation of neighbours among values whose mean is 0.
fn resemblance(values: &[f64]) -> f64 {
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

/// Returns how many estimated standard deviations hold as much of Student's distribution as so many
/// hold of the normal one (Wallace 1959; right to 1 % from three degrees of freedom on).
fn student(deviations: f64, degrees: f64) -> f64 {
    if degrees.is_infinite() {
        return deviations;
    }
    let scaled = deviations * (8.0 * degrees + 3.0) / (8.0 * degrees + 1.0);
    (degrees * ((scaled * scaled / degrees).exp() - 1.0)).sqrt()
}

/// Returns the inverse of [`student`].
fn deviations(student: f64, degrees: f64) -> f64 {
    let scaled = (degrees * (1.0 + student * student / degrees).ln()).sqrt();
    scaled * (8.0 * degrees + 1.0) / (8.0 * degrees + 3.0)
}

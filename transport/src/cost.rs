//! What a link costs, from what one of its ends says of it.

/// What a hop takes beside its link, microseconds: so that of two ways of the same length the one over fewer nodes is taken.
const HOP_MICROS: u64 = 500;
/// A relay is between.
const RELAYED_MICROS: u64 = 5_000;
/// An end has so much to do that whoever can goes another way.
const BUSY_MICROS: u64 = 10_000;
/// An end runs on battery.
const BATTERY_MICROS: u64 = 20_000;
/// An end pays for what it sends.
const METERED_MICROS: u64 = 100_000;
/// Loss is believed up to this, parts in a million: beyond, the cost would have no bound.
const LOSS_PPM_MAX: u64 = 900_000;

/// The cost of a link or a way: microseconds that a small message takes over it, penalties included. At least 1, and at
/// most [`Cost::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost(u32);

impl Cost {
    /// The greatest cost, 20 minutes: a way of any length costs no more.
    pub const MAX: Cost = Cost(1_200_000_000);

    /// A cost of so many microseconds, kept within the limits.
    pub fn from_micros(micros: u64) -> Cost {
        Cost(u32::try_from(micros).unwrap_or(u32::MAX).clamp(1, Cost::MAX.0))
    }

    /// Microseconds.
    pub fn micros(self) -> u32 {
        self.0
    }

    /// The cost of one after the other.
    #[must_use]
    pub fn plus(self, other: Cost) -> Cost {
        Cost((self.0 + other.0).min(Cost::MAX.0)) // twice the greatest fits
    }
}

/// How a link leads to its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// Within a local network.
    Lan,
    /// Across the internet or another network of networks.
    Wan,
    /// Over a relay.
    Relayed,
}

/// What one end says of a link that is up and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// The least round trip of late, microseconds.
    pub rtt_micros: u64,
    /// What round trips take beyond that, on average, microseconds.
    pub jitter_micros: u64,
    /// Lost packets, one way, in a million.
    pub loss_ppm: u64,
    /// How it leads there.
    pub kind: LinkKind,
    /// Whether this end pays for what it sends.
    pub is_metered: bool,
    /// Whether this end runs on battery.
    pub is_on_battery: bool,
    /// Whether this end's processors have been at their limit for a while.
    pub is_busy: bool,
}

/// What the cost of a link is made of, microseconds each; together they are the cost, within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostParts {
    /// Half of the round trip.
    pub delay_micros: u64,
    /// Half of the jitter.
    pub jitter_micros: u64,
    /// What every hop takes.
    pub hop_micros: u64,
    /// What is lost once is sent again.
    pub loss_micros: u64,
    /// A relay is between.
    pub relayed_micros: u64,
    /// This end runs on battery.
    pub battery_micros: u64,
    /// This end pays for what it sends.
    pub metered_micros: u64,
    /// This end has too much to do.
    pub busy_micros: u64,
}

impl LinkState {
    /// What the link costs, one way.
    pub fn cost(&self) -> Cost {
        let parts = self.parts();
        let measured = parts.delay_micros + parts.jitter_micros + parts.hop_micros + parts.loss_micros;
        let burdens = parts.battery_micros + parts.metered_micros + parts.busy_micros;
        Cost::from_micros(measured + parts.relayed_micros + burdens)
    }

    /// What that cost is made of.
    pub fn parts(&self) -> CostParts {
        let capped = |micros: u64| micros.min(u64::from(Cost::MAX.0));
        let where_so = |applies: bool, micros: u64| if applies { micros } else { 0 };
        let (rtt, loss) = (capped(self.rtt_micros), self.loss_ppm.min(LOSS_PPM_MAX));
        CostParts {
            delay_micros: rtt / 2,
            jitter_micros: capped(self.jitter_micros) / 2,
            hop_micros: HOP_MICROS,
            loss_micros: (rtt + rtt / 2) * loss / (1_000_000 - loss),
            relayed_micros: where_so(self.kind == LinkKind::Relayed, RELAYED_MICROS),
            battery_micros: where_so(self.is_on_battery, BATTERY_MICROS),
            metered_micros: where_so(self.is_metered, METERED_MICROS),
            busy_micros: where_so(self.is_busy, BUSY_MICROS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkState = LinkState {
        rtt_micros: 20_000,
        jitter_micros: 0,
        loss_ppm: 0,
        kind: LinkKind::Wan,
        is_metered: false,
        is_on_battery: false,
        is_busy: false,
    };

    #[test]
    fn a_link_costs_its_one_way_delay_and_what_makes_it_worse() {
        let cost = |link: LinkState| link.cost().micros();
        assert_eq!(cost(LINK), 10_500);
        assert_eq!(cost(LinkState { jitter_micros: 3_000, ..LINK }), 12_000);
        assert_eq!(cost(LinkState { loss_ppm: 200_000, ..LINK }), 18_000);
        assert_eq!(cost(LinkState { kind: LinkKind::Relayed, ..LINK }), 15_500);
        assert_eq!(cost(LinkState { is_metered: true, ..LINK }), 110_500);
        assert_eq!(cost(LinkState { is_on_battery: true, ..LINK }), 30_500);
        assert_eq!(cost(LinkState { is_busy: true, ..LINK }), 20_500);
    }

    #[test]
    fn a_cost_is_the_sum_of_its_parts() {
        let parts = LinkState { jitter_micros: 3_000, loss_ppm: 200_000, is_metered: true, ..LINK }.parts();
        let expected = CostParts {
            delay_micros: 10_000,
            jitter_micros: 1_500,
            hop_micros: 500,
            loss_micros: 7_500,
            relayed_micros: 0,
            battery_micros: 0,
            metered_micros: 100_000,
            busy_micros: 0,
        };
        assert_eq!(parts, expected);
    }

    #[test]
    fn no_claim_makes_a_link_free_or_overflows() {
        let nothing = LinkState { rtt_micros: 0, kind: LinkKind::Lan, ..LINK };
        assert_eq!(nothing.cost().micros(), 500);
        let absurd = LinkState { rtt_micros: u64::MAX, jitter_micros: u64::MAX, loss_ppm: u64::MAX, ..LINK };
        assert_eq!(absurd.cost(), Cost::MAX);
        assert_eq!(absurd.cost().plus(absurd.cost()), Cost::MAX);
        assert_eq!(Cost::from_micros(0).micros(), 1);
    }
}

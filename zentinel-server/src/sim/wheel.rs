//! What falls due when: a timing wheel with slots of a millisecond.

/// Slots of the wheel; entries further away go round again.
const SLOTS: u64 = 1 << 16;

/// Entries ordered by the millisecond they fall due; adding and taking cost the same however many
/// there are, where a heap of all nodes would cost more than the requests themselves.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// The first millisecond that was not looked at yet.
    next: u64,
}

impl<T: Copy> Wheel<T> {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: 0 }
    }

    /// Adds an entry; one of the past falls due at once.
    pub(super) fn push(&mut self, due: u64, entry: T) {
        let slot = due.max(self.next) % SLOTS;
        if let Some(slot) = self.slots.get_mut(usize::try_from(slot).unwrap_or_default()) {
            slot.push((due, entry));
        }
    }

    /// Moves what has fallen due by `now` to `due`, in the order of the slots.
    pub(super) fn pop_due(&mut self, now: u64, due: &mut Vec<(u64, T)>) {
        if now < self.next {
            return;
        }
        // After a standstill longer than a turn, one turn finds everything.
        let turns = (now - self.next + 1).min(SLOTS);
        for at in self.next..self.next + turns {
            let Some(slot) = self.slots.get_mut(usize::try_from(at % SLOTS).unwrap_or_default()) else {
                continue;
            };
            due.extend(slot.extract_if(.., |(when, _)| *when <= now));
        }
        self.next = now + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Each case turns the whole wheel several times.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn nothing_is_early_late_or_lost(
            dues in proptest::collection::vec(0_u64..200_000, 1..50),
            steps in proptest::collection::vec(1_u64..90_000, 1..20),
        ) {
            let mut wheel = Wheel::new();
            for (entry, due) in dues.iter().enumerate() {
                wheel.push(*due, entry);
            }
            let (mut now, mut seen) = (0, Vec::new());
            for step in steps.into_iter().chain([200_000]) {
                let before = now;
                now += step;
                let mut due = Vec::new();
                wheel.pop_due(now, &mut due);
                for (when, entry) in due {
                    prop_assert_eq!(when, dues[entry]);
                    prop_assert!(when <= now && (when > before || before == 0));
                    seen.push(entry);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..dues.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_added_late_falls_due_at_the_next_look() {
        let mut wheel = Wheel::new();
        let mut due = Vec::new();
        wheel.pop_due(100, &mut due);
        wheel.push(7, 'a');
        wheel.pop_due(100, &mut due);
        assert!(due.is_empty(), "this millisecond was looked at");
        wheel.pop_due(101, &mut due);
        assert_eq!(due, [(7, 'a')]);
    }
}

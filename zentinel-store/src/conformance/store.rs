//! Cases for [`Store`](zentinel_core::port::Store).

mod commits;
mod lists;
mod logs;
mod races;
mod records;

pub use commits::*;
pub use lists::*;
pub use logs::*;
pub use races::*;
pub use records::*;

/// Expands every case of [`conformance::store`](crate::conformance::store) into a
/// `#[tokio::test]`. The argument is an expression that makes a
/// [`Backend`](crate::conformance::Backend).
#[macro_export]
macro_rules! store_suite {
    ($backend:expr) => {
        $crate::__conformance_cases! { $backend, store:
            a_record_reads_back_as_written
            an_unknown_id_is_absent
            an_update_counts_the_revision
            a_stale_update_is_refused
            writing_an_absent_record_is_not_found
            an_upsert_inserts_then_replaces
            a_taken_id_is_refused
            a_natural_key_is_unique_per_owner
            a_deleted_record_frees_its_keys
            an_update_moves_its_keys
            a_lookup_key_is_unique_over_all_tenants
            a_lookup_finds_records_of_any_tenant
            a_scope_shows_only_its_rows
            odd_text_survives
            nul_is_refused_or_kept
            long_bodies_survive
            far_times_survive
            numbers_survive

            an_empty_commit_succeeds
            a_failed_commit_leaves_nothing
            a_failed_commit_leaves_no_gap
            a_check_guards_the_commit
            writes_see_earlier_ones_of_their_commit
            keys_change_hands_in_one_commit
            a_large_commit_is_one_commit
            watchers_hear_of_commits
            watchers_tell_renewals_from_changes
            watchers_hear_nothing_of_failed_commits
            every_watcher_hears
            the_store_answers_a_ping

            one_of_two_writers_wins
            one_of_many_inserts_of_a_key_wins
            increments_are_not_lost
            a_check_holds_against_concurrent_writers
            sequences_have_no_gaps_under_load
            concurrent_repeats_are_dropped

            pages_show_every_row_once_in_each_order
            orders_sort_as_documented
            a_page_continues_after_its_last_row_is_gone
            a_page_tells_the_total
            foreign_cursors_are_malformed
            filters_combine
            an_empty_id_list_matches_nothing
            labels_filter_exactly
            spans_of_creation_include_both_ends
            counts_go_by_state
            bulk_reads_take_thousands

            audit_and_events_are_logged_in_commit_order
            logs_read_both_ways
            logs_read_by_owner_and_scope
            a_repeated_deduplication_key_adds_nothing
            retention_by_count_is_per_owner
            retention_by_age_drops_the_old
            both_retentions_apply
            trimming_does_not_reset_the_sequence
            the_audit_log_is_never_trimmed
        }
    };
}

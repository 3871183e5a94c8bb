"""What breaks systems of this kind, and the tests that hold against it.

A: what users of such frameworks complain of.  F: faults from outside.  S: mistakes that operators of this kind are commonly written with.
Only what concerns the operator runtime is listed here.  ``grep F26 tests`` leads to its tests, and ``test_catalogue.py`` sees to it that they are
there.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """What happens, and the tests (``path::name`` below ``tests``) by which nothing comes of it."""

    what: str
    tests: tuple[str, ...]


FAULTS = {
    "A10": Fault(
        "windows expire by the wall clock, close without their contents, or are lost over a restart",
        (
            "unit/test_windows.py::test_last_weeks_records_fall_into_the_windows_of_last_week",
            "unit/test_windows.py::test_a_tumbling_window_emits_once_when_the_watermark_reaches_its_end",
            "unit/test_windows.py::test_windows_survive_a_restart_between_every_two_steps",
            "property/test_windows.py::test_every_record_counts_in_the_last_result_of_its_window_or_is_late",
        ),
    ),
    "A11": Fault(
        "the last window of a key that goes quiet never closes",
        (
            "unit/test_operator_time.py::test_a_last_session_closes_after_its_gap_and_the_idle_time_though_nothing_more_arrives",
            "unit/test_sessions.py::test_an_idle_partition_closes_its_sessions_though_nothing_more_arrives",
        ),
    ),
    "A12": Fault(
        "state and changelog grow for ever",
        (
            "contract/test_state_ttl.py::test_a_row_is_there_until_just_before_its_time_to_live_is_over",
            "contract/test_state_ttl.py::test_keys_that_come_and_go_leave_memory_and_changelog_flat",
            "contract/test_state_ttl.py::test_a_sweep_removes_what_nobody_reads_from_memory_and_changelog",
            "unit/test_lane_time.py::test_ticks_clean_up_expired_state_and_write_only_when_something_expired",
        ),
    ),
    "A13": Fault(
        "state can be neither read nor written outside of the stream's loop",
        (
            "unit/test_timers.py::test_state_is_that_of_the_timers_key",
            "unit/test_timers_and_ttl.py::test_what_a_timer_writes_begins_its_life_at_the_timers_time",
            "web/test_state.py::test_a_key_answers_with_its_value_by_field_name_and_how_fresh_it_is",
            "integration/test_cli_processes.py::test_state_of_a_key_is_asked_of_the_worker",
        ),
    ),
    "F17": Fault(
        "records are late by a second to thirty days, alone or all at once",
        (
            "unit/test_operator_time.py::test_records_older_than_the_allowed_lateness_are_late_and_the_function_does_not_see_them",
            "unit/test_operator_time.py::test_a_burst_of_late_records_of_30_days_is_counted_and_sets_no_timers",
            "unit/test_windows.py::test_a_record_beyond_the_allowed_lateness_goes_to_the_late_side_output_and_is_counted",
            "unit/test_lane_time.py::test_late_records_lie_on_late_events_with_the_operator_and_both_times",
        ),
    ),
    "F18": Fault(
        "one producer's clock is decades ahead",
        ("unit/test_operator_time.py::test_a_record_from_the_far_future_is_refused_and_moves_nothing",),
    ),
    "F19": Fault(
        "the clocks of workers differ by an hour, or step",
        (
            "unit/test_operator_time.py::test_event_time_results_do_not_depend_on_the_clock_of_the_worker",
            "unit/test_faults_of_time_and_size.py::"
            "test_a_clock_that_steps_changes_no_result_of_event_time_and_fires_a_timer_of_its_own_once",
        ),
    ),
    "F20": Fault(
        "a partition, an input or a key is idle",
        (
            "unit/test_operator_time.py::test_a_last_session_closes_after_its_gap_and_the_idle_time_though_nothing_more_arrives",
            "unit/test_lane_time.py::test_a_quiet_partition_follows_the_furthest_other_one_unless_it_has_records_waiting",
            "unit/test_operator_two_inputs.py::test_an_idle_input_does_not_hold_the_other_one_back",
            "unit/test_operator_time.py::test_a_producer_of_current_events_that_pauses_has_no_late_records_when_it_goes_on",
        ),
    ),
    "F22": Fault(
        "a partition is revoked in the middle of a batch, of timers or of calls",
        (
            "unit/test_lane.py::test_a_batch_fetched_before_the_last_seek_is_dropped",
            "unit/test_lane.py::test_a_batch_of_a_partition_that_is_gone_is_dropped",
            "unit/test_lane_time.py::test_while_timers_fire_in_slices_the_loop_goes_on_and_a_revoked_partition_is_let_go",
            "unit/test_lane_time.py::"
            "test_a_partition_revoked_with_calls_in_flight_forgets_them_and_its_successor_calls_again",
            "unit/test_lane_time.py::"
            "test_a_revoked_partition_gives_back_the_room_of_its_calls_and_of_results_that_wait_for_them",
        ),
    ),
    "F25": Fault(
        "a key of 1 MB, a value of 20 MB, one key that is nearly all of the load",
        (
            "unit/test_faults_of_time_and_size.py::"
            "test_a_key_of_any_size_has_state_and_timers_like_others_also_after_a_crash",
            "unit/test_faults_of_time_and_size.py::"
            "test_a_value_of_20_mb_is_a_record_like_others_and_comes_back_after_a_crash",
            "unit/test_faults_of_time_and_size.py::"
            "test_one_key_that_is_nine_tenths_of_the_load_keeps_what_it_may_and_takes_nothing_from_others",
            "contract/test_transport.py::test_a_record_that_is_too_large_takes_its_whole_call_with_it",
            "integration/test_kafka_dead_letters.py::"
            "test_a_bad_record_that_only_compression_made_fit_is_a_dead_letter_and_does_not_stop_the_worker",
        ),
    ),
    "F26": Fault(
        "a million timers are due at the same millisecond",
        (
            "unit/test_lane_time.py::test_a_million_timers_due_at_one_instant_do_not_hold_the_loop_for_100_ms",
            "unit/test_timers.py::test_a_crash_between_two_slices_fires_every_timer_exactly_once",
            "unit/test_timers_and_ttl.py::test_after_a_crash_between_two_slices_timers_find_what_they_would_have_found",
        ),
    ),
    "S1": Fault(
        "a timer per event, any of which wipes a live session",
        (
            "docs/test_examples.py::test_session_manager_does_not_end_a_live_session_by_an_old_timer",
            "unit/test_sessions.py::test_a_live_session_is_not_wiped_by_the_timer_of_its_first_event",
        ),
    ),
    "S2": Fault(
        "timers without on_timer: a session without result, and states that leak",
        (
            "unit/test_timers.py::test_a_function_without_on_timer_that_sets_one_is_told_so",
            "unit/test_sessions.py::test_a_session_starts_goes_on_and_ends_once",
            "unit/test_sessions.py::test_all_state_of_a_session_is_gone_after_it",
        ),
    ),
    "S3": Fault(
        "a late event moves the end of its session back",
        (
            "docs/test_examples.py::test_custom_session_window_ends_with_its_last_event_and_a_late_one_does_not_shorten_it",
            "unit/test_windows.py::test_a_late_record_moves_neither_the_end_nor_the_timer_of_its_session_back",
            "unit/test_sessions.py::test_an_event_out_of_order_moves_neither_end_nor_timer_backwards",
        ),
    ),
    "S4": Fault(
        "the timer of a match expires the next order early; a second order overwrites the first",
        (
            "docs/test_examples.py::test_an_old_timer_does_not_expire_the_next_order_early",
            "unit/test_orders.py::test_the_timer_of_a_matched_payment_does_not_end_another_that_waits",
            "unit/test_orders.py::test_the_timer_of_a_matched_payment_does_not_end_a_later_one_early",
            "unit/test_orders.py::test_several_orders_wait_each_for_its_own_payment",
            "unit/test_orders.py::test_repeats_change_nothing_before_and_after_the_match",
        ),
    ),
    "S5": Fault(
        "keyed state in a stream without keys, and broadcast state that the data side writes",
        (
            "unit/test_fraud.py::test_a_restored_operator_goes_on_with_the_same_history",
            "unit/test_harness.py::test_writing_broadcast_state_on_the_data_side_is_an_error",
        ),
    ),
    "S6": Fault(
        "rules that are code, which no topic can carry",
        (
            "property/test_rules_soup.py::test_any_text_is_a_condition_or_is_refused_at_a_place_in_it",
            "property/test_rules_soup.py::test_any_record_is_folded_or_refused",
            "unit/test_rules_compiler.py::test_generated_code_has_no_builtins",
        ),
    ),
    "S7": Fault(
        "the first transactions after a start see no rules",
        (
            "integration/test_fraud_job.py::test_no_transaction_is_judged_before_the_rules_that_were_there_at_start",
            "unit/test_fraud.py::test_a_rule_judges_only_what_happened_after_its_effective_from",
        ),
    ),
    "S8": Fault(
        "a history without a bound",
        ("unit/test_fraud.py::test_the_history_holds_at_most_its_cap_and_counts_what_it_drops",),
    ),
    "S9": Fault(
        "a cache that is empty, slow, wrong or gone, and the stampede after it",
        (
            "docs/test_examples.py::test_async_redis_enrichment_survives_a_cache_that_is_empty_slow_or_wrong",
            "integration/test_profile_lookup.py::test_ten_thousand_misses_of_one_user_are_one_query",
            "integration/test_profile_lookup.py::test_an_unknown_user_gets_the_default_profile_and_is_not_asked_about_again",
            "integration/test_profile_lookup.py::test_garbage_in_the_cache_is_a_miss_and_is_written_anew",
            "integration/test_profile_lookup.py::test_a_hanging_redis_costs_its_own_share_of_the_time_and_soon_nothing",
        ),
    ),
    "S10": Fault(
        "more calls in flight than the pool has connections, so that waiting uses up the timeout",
        (
            "docs/test_examples.py::test_async_database_enrichment_answers_within_its_time",
            "unit/test_operator_async.py::test_the_timeout_is_for_all_attempts_together",
            "integration/test_profile_lookup.py::test_where_postgres_has_few_connections_to_give_those_are_enough",
            "integration/test_profile_lookup.py::test_a_slow_postgres_costs_the_timeout_at_most_and_leaks_no_connection",
        ),
    ),
}

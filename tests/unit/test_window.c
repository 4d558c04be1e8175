/* SPDX-License-Identifier: Apache-2.0 */
#include "test_window_util.h"

static rguard_arena* arena;
static rguard_window* window;
static uint8_t* object;

static void open_guarded(void)
{
    CHECK(rguard_guard_init(NULL) == 0);
    arena = make_arena(RGUARD_SLOTS_GUARDED, 1 << 20);
    window = make_window(&arena, 1, 0);
    object = make_slot(arena, 64);
    memset(object, 1, 64);
}

static int overrun(void* user)
{
    (void)user;
    CHECK(rguard_touch(object, 64) == 0);
    memset(object, 2, 64);
    raw_store(object + 64, 3);
    return 0;
}

static void child_overrun(void)
{
    open_guarded();
    struct rguard_violation v;
    CHECK(rguard_window_run(window, 3, 4711, overrun, NULL, &v) == RGUARD_EVIOLATION);
    CHECK(v.kind == RGUARD_V_SLOT_GUARD && v.class_ == RGUARD_CLASS_PRECISE);
    CHECK(v.slot_offset == 0 && v.address == (uintptr_t)object + 64);
    CHECK(v.term == 3 && v.index == 4711 && strcmp(v.arena, "test") == 0);
    for (int i = 0; i < 64; i++) {
        CHECK(object[i] == 1);
    }
}

static void test_overrun_is_precise_and_undone(void** state)
{
    (void)state;
    SKIP_UNDER_ASAN("AddressSanitizer reports the store");
    assert_exits(in_child(child_overrun), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overrun_is_precise_and_undone),
    };
    return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_ERROR_H
#define RGUARD_ERROR_H

#include <raftguard/version.h>

/* Every function of raftguard that can fail returns an int: 0 for success, else a negative number,
 * either one of the codes below or a negated errno (-ENOSPC, -EIO, ...). Out-parameters are written
 * only on success. One table makes the enum, the name and the text. */
#define RGUARD_ERRORS(X)                                                                           \
    X(RGUARD_EVIOLATION, -20001, "memory violation; the record says what, where and when")         \
    X(RGUARD_EDOUBLEFREE, -20002, "slot was already free; the second free was refused")            \
    X(RGUARD_EWRONGARENA, -20003, "address is not the start of a live slot of this arena")         \
    X(RGUARD_ECANARY, -20004, "canary of a slot or magic word of an arena was overwritten")        \
    X(RGUARD_EARENAFULL, -20005, "arena has no room for another slot")                             \
    X(RGUARD_ECORRUPT, -20006, "damage below the acknowledged end of the log; nothing was cut")    \
    X(RGUARD_ESUSPECT, -20007,                                                                     \
      "last batch is damaged but not torn; it may have been acknowledged")                         \
    X(RGUARD_EFOREIGN, -20008, "directory belongs to another node or is not a raftguard one")      \
    X(RGUARD_EUNSUPPORTED, -20009, "format version or ABI is not supported by this build")         \
    X(RGUARD_EPOISONED, -20010, "an earlier write failed; the log accepts nothing until reopened") \
    X(RGUARD_EBUSY, -20011, "too much in flight; try again after some completions")                \
    X(RGUARD_ETOOBIG, -20012, "larger than the configured limit")                                  \
    X(RGUARD_ENOTLEADER, -20013, "this replica is not the leader")                                 \
    X(RGUARD_EVOTED, -20014, "a different vote was already cast in this term")                     \
    X(RGUARD_ECHECKSUM, -20015, "checksum does not match")                                         \
    X(RGUARD_EPROTO, -20016, "malformed or unexpected message")                                    \
    X(RGUARD_ESPEC, -20017, "failpoint specification cannot be parsed; nothing was armed")         \
    X(RGUARD_EUNKNOWN, -20018, "no failpoint site has this name")                                  \
    X(RGUARD_ENOTSUP, -20019, "not compiled in or not supported here")                             \
    X(RGUARD_ESTATE, -20020, "not allowed in the present state")                                   \
    X(RGUARD_ELOCKED, -20021, "directory is in use by another process")                            \
    X(RGUARD_ECANCELED, -20022, "canceled by close")                                               \
    X(RGUARD_ELOST, -20023, "leadership was lost; whether the command commits is unknown")         \
    X(RGUARD_EREFUSED, -20024, "refused by policy or capability")

enum rguard_error {
#define RGUARD_ERROR_ENUM(name, value, text) name = value,
    RGUARD_ERRORS(RGUARD_ERROR_ENUM)
#undef RGUARD_ERROR_ENUM
};

#ifdef __cplusplus
extern "C" {
#endif

/* One sentence for an RGUARD_E code or a negated errno; "success" for 0. Static string, never NULL.
 * Any thread; not from a signal handler (negated errnos go through strerrordesc_np). */
RGUARD_API const char *rguard_strerror(int err);

/* "RGUARD_ECORRUPT", "EIO", ...; "UNKNOWN" for a number that is neither. Static string. */
RGUARD_API const char *rguard_err_name(int err);

#ifdef __cplusplus
}
#endif
#endif

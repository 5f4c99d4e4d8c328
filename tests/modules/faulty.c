/* A module of which one call fails: the FAULTY_CALL-th, with the return value FAULTY_RV (decimal), without reaching the
 * real module. With FAULTY_FUNCTION (a place in the list) the calls of that function are counted, and the one that fails
 * has reached the real module before. The number of calls so far is written to FAULTY_COUNT.
 */
#define REAL "FAULTY_MODULE"
#include "front.h"

static int fails(word *value) {
    static word calls;
    static int counted = -1;
    const char *path = getenv("FAULTY_COUNT"), *call = getenv("FAULTY_CALL");
    char text[32];
    word number = __sync_add_and_fetch(&calls, 1);

    if (path) {
        if (counted < 0)
            counted = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        int length = snprintf(text, sizeof text, "%lu\n", number);
        if (pwrite(counted, text, (size_t)length, 0) < 0)
            abort();
    }
    if (!call || strtoul(call, NULL, 10) != number)
        return 0;
    *value = strtoul(getenv("FAULTY_RV"), NULL, 10);
    return 1;
}

static word call(word place, word *given) {
    const char *only = getenv("FAULTY_FUNCTION");
    word value, done;

    if (!only)
        return fails(&value) ? value : passed_on(place, given);
    done = passed_on(place, given);
    return place == strtoul(only, NULL, 10) && fails(&value) ? value : done;
}

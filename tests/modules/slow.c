/* A module that takes its time, as a secure element behind a TEE does: every call waits SLOW_CALL microseconds, an
 * operation with a key SLOW_OPERATION more, and calls are counted by function in the file SLOW_COUNT: an array of 68 words
 * in the order of CK_FUNCTION_LIST, and one word more for the operations.
 *
 * An operation is C_GenerateKeyPair, C_DeriveKey, and C_Sign with an output buffer: without one it asks for the size.
 */
#include <sys/mman.h>
#include <time.h>
#define REAL "SLOW_MODULE"
#include "front.h"

static word *counts;

__attribute__((constructor)) static void count(void) {
    const char *path = getenv("SLOW_COUNT");
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    size_t size = (FUNCTIONS + 1) * sizeof(word);

    if (file < 0 || ftruncate(file, (off_t)size))
        return;
    counts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counts == MAP_FAILED)
        abort();
    close(file);
}

static void take_time(const char *name) {
    const char *text = getenv(name);
    word microseconds = text ? strtoul(text, NULL, 10) : 0;
    struct timespec left = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};

    while (nanosleep(&left, &left))
        ;
}

static word call(word place, word *given) {
    int is_operation = place == GENERATE_KEY_PAIR || place == DERIVE_KEY || (place == SIGN && given[3]);

    if (counts) {
        __sync_add_and_fetch(&counts[place], 1);
        __sync_add_and_fetch(&counts[FUNCTIONS], (word)is_operation);
    }
    take_time("SLOW_CALL");
    if (is_operation)
        take_time("SLOW_OPERATION");
    return passed_on(place, given);
}

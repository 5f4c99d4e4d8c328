/* A PKCS#11 module in front of a real one (SLOW_MODULE) that takes its time, as a secure element behind a TEE does: every
 * call waits SLOW_CALL microseconds, an operation with a key SLOW_OPERATION more, and calls are counted by function in
 * the file SLOW_COUNT: an array of 68 words in the order of CK_FUNCTION_LIST, and one word more for the operations.
 *
 * An operation is C_GenerateKeyPair, C_DeriveKey, and C_Sign with an output buffer: without one it asks for the size.
 *
 * Every function of CK_FUNCTION_LIST (PKCS#11 v2.40 §3) takes at most eight integers or pointers and gives a CK_RV, so
 * one shape of wrapper, with eight words passed on, does for all of them on the ABIs of Linux.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FUNCTIONS 68
/* Places in the list. */
#define GET_FUNCTION_LIST 3
#define SIGN 43
#define GENERATE_KEY_PAIR 59
#define DERIVE_KEY 62

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);

static struct list {
    unsigned char version[2];
    function functions[FUNCTIONS];
} mine;
static struct list *real;
static word *counts;

static void take_time(const char *name) {
    const char *text = getenv(name);
    word microseconds = text ? strtoul(text, NULL, 10) : 0;
    struct timespec left = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};

    while (nanosleep(&left, &left))
        ;
}

static void note(word n, word output) {
    int is_operation = n == GENERATE_KEY_PAIR || n == DERIVE_KEY || (n == SIGN && output);

    if (counts) {
        __sync_add_and_fetch(&counts[n], 1);
        __sync_add_and_fetch(&counts[FUNCTIONS], (word)is_operation);
    }
    take_time("SLOW_CALL");
    if (is_operation)
        take_time("SLOW_OPERATION");
}

#define WRAPPER(n)                                                                                    \
    static word wrapper_##n(word a, word b, word c, word d, word e, word f, word g, word h) {         \
        note(n, d);                                                                                   \
        return real->functions[n](a, b, c, d, e, f, g, h);                                            \
    }
#define TEN(X, t) X(t##0) X(t##1) X(t##2) X(t##3) X(t##4) X(t##5) X(t##6) X(t##7) X(t##8) X(t##9)
#define ALL(X)                                                                                        \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)                                                 \
    TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5)                                                 \
    X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
ALL(WRAPPER)

static void count_in(const char *path) {
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    size_t size = (FUNCTIONS + 1) * sizeof(word);

    if (file < 0 || ftruncate(file, (off_t)size))
        return;
    counts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counts == MAP_FAILED)
        abort();
    close(file);
}

word C_GetFunctionList(struct list **result);

word C_GetFunctionList(struct list **result) {
    word (*get)(struct list **);
    void *module = dlopen(getenv("SLOW_MODULE"), RTLD_NOW);

    if (!module || !(get = (word(*)(struct list **))dlsym(module, "C_GetFunctionList")) || get(&real))
        return 5; /* CKR_GENERAL_ERROR */
    count_in(getenv("SLOW_COUNT"));
    memcpy(mine.version, real->version, sizeof mine.version);
#define TAKE(n) mine.functions[n] = wrapper_##n;
    ALL(TAKE)
    mine.functions[GET_FUNCTION_LIST] = (function)C_GetFunctionList;
    *result = &mine;
    return 0;
}

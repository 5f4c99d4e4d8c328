/* A PKCS#11 module in front of a real one (FAULTY_MODULE) of which one call fails: the FAULTY_CALL-th, with the return
 * value FAULTY_RV (decimal), without reaching the real module. The number of calls so far is written to FAULTY_COUNT.
 *
 * Every function of CK_FUNCTION_LIST (PKCS#11 v2.40 §3) takes at most eight integers or pointers and gives a CK_RV, so
 * one shape of wrapper, with eight words passed on, does for all of them on the ABIs of Linux.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUNCTIONS 68
#define GET_FUNCTION_LIST 3 /* its place in the list */

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);

static struct list {
    unsigned char version[2];
    function functions[FUNCTIONS];
} mine;
static struct list *real;

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

#define WRAPPER(n)                                                                                    \
    static word wrapper_##n(word a, word b, word c, word d, word e, word f, word g, word h) {         \
        word value;                                                                                   \
        return fails(&value) ? value : real->functions[n](a, b, c, d, e, f, g, h);                    \
    }
#define TEN(X, t) X(t##0) X(t##1) X(t##2) X(t##3) X(t##4) X(t##5) X(t##6) X(t##7) X(t##8) X(t##9)
#define ALL(X)                                                                                        \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)                                                 \
    TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5)                                                 \
    X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
ALL(WRAPPER)

word C_GetFunctionList(struct list **result);

word C_GetFunctionList(struct list **result) {
    word (*get)(struct list **);
    void *module = dlopen(getenv("FAULTY_MODULE"), RTLD_NOW);

    if (!module || !(get = (word(*)(struct list **))dlsym(module, "C_GetFunctionList")) || get(&real))
        return 5; /* CKR_GENERAL_ERROR */
    memcpy(mine.version, real->version, sizeof mine.version);
#define TAKE(n) mine.functions[n] = wrapper_##n;
    ALL(TAKE)
    mine.functions[GET_FUNCTION_LIST] = (function)C_GetFunctionList;
    *result = &mine;
    return 0;
}

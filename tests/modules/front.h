/* What a PKCS#11 module in front of a real one needs. Who includes it defines REAL, the name of the environment variable
 * that names the real module, and call(), which has each call go on with passed_on(), or not. `place` is the function's
 * in CK_FUNCTION_LIST.
 *
 * Every function of that list (PKCS#11 v2.40 §3) takes at most eight integers or pointers and gives a CK_RV, so one shape
 * of wrapper, with eight words passed on, does for all of them on the ABIs of Linux.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, LOGIN = 18, SIGN = 43, GENERATE_KEY_PAIR = 59, DERIVE_KEY = 62 };
enum { FUNCTIONS = 68 };

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);

static struct list {
    unsigned char version[2];
    function functions[FUNCTIONS];
} mine;
static struct list *real;

static word call(word place, word *given);

static word passed_on(word place, word *given) {
    return real->functions[place](given[0], given[1], given[2], given[3], given[4], given[5], given[6], given[7]);
}

#define WRAPPER(n)                                                                                    \
    static word wrapper_##n(word a, word b, word c, word d, word e, word f, word g, word h) {         \
        word given[] = {a, b, c, d, e, f, g, h};                                                      \
        return call(n, given);                                                                        \
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
    void *module = dlopen(getenv(REAL), RTLD_NOW);

    if (!module || !(get = (word(*)(struct list **))dlsym(module, "C_GetFunctionList")) || get(&real))
        return 5; /* CKR_GENERAL_ERROR */
    memcpy(mine.version, real->version, sizeof mine.version);
#define TAKE(n) mine.functions[n] = wrapper_##n;
    ALL(TAKE)
    mine.functions[GET_FUNCTION_LIST] = (function)C_GetFunctionList;
    *result = &mine;
    return 0;
}

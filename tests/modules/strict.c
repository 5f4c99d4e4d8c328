/* A module that refuses private templates without class and curve, as some secure elements do (ATECC); with STRICT_ALWAYS
 * all of them.
 */
#define REAL "STRICT_MODULE"
#include "front.h"

enum { CLASS = 0, EC_PARAMS = 0x180, TEMPLATE_INCONSISTENT = 0xD1 };
struct attribute {
    word type;
    void *value;
    word length;
};

static int has(struct attribute *template, word count, word type) {
    while (count--)
        if (template[count].type == type)
            return 1;
    return 0;
}

static word call(word place, word *given) {
    if (place == GENERATE_KEY_PAIR) {
        struct attribute *private = (struct attribute *)given[4];
        word *count = &given[5];

        if (getenv("STRICT_ALWAYS") || !has(private, *count, CLASS) || !has(private, *count, EC_PARAMS))
            return TEMPLATE_INCONSISTENT;
        /* SoftHSM in its turn refuses the curve there. */
        for (word i = 0; i < *count; i++)
            if (private[i].type == EC_PARAMS)
                private[i--] = private[--*count];
    }
    return passed_on(place, given);
}

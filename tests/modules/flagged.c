/* A module that adds TOKEN_FLAGS to what the token says of itself, and a line to the file TOKEN_LOGINS for each login. */
#define REAL "TOKEN_MODULE"
#include "front.h"

enum { FLAGS = 96 }; /* in CK_TOKEN_INFO */

static word call(word place, word *given) {
    if (place == LOGIN) {
        FILE *log = fopen(getenv("TOKEN_LOGINS"), "a");
        fputs("login\n", log);
        fclose(log);
    }
    word failed = passed_on(place, given), flags;
    if (place == GET_TOKEN_INFO && !failed) {
        unsigned char *info = (unsigned char *)given[1];
        memcpy(&flags, info + FLAGS, sizeof flags);
        flags |= strtoul(getenv("TOKEN_FLAGS"), NULL, 0);
        memcpy(info + FLAGS, &flags, sizeof flags);
    }
    return failed;
}

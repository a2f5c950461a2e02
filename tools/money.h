/* Amounts as people write them, to and from the minor units of the contract, exactly: no floating point. */
#ifndef TOOLS_MONEY_H
#define TOOLS_MONEY_H

#include "proto/base/bytes.h"

enum { MONEY_TEXT_BYTES = 40 };

/* Digits after the point of a currency (ISO 4217): JPY 0, CNY 2, KWD 3. Codes that are not in the list have 2; whether a code exists is the server's
 * question. */
unsigned money_exponent(const char *currency);
/* "19.99", "5", "99.9", ".5"; no sign, no separators. Digits beyond the exponent have to be zeros. false: not such an amount, or too large. */
bool money_parse(struct slice text, unsigned exponent, int64_t *minor_units);
/* "19.99", "-0.05"; out: MONEY_TEXT_BYTES. */
void money_format(int64_t minor_units, unsigned exponent, char *out);

#endif

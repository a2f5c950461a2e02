#include "proto/timetext.h"

#include <stdio.h>

#define TIME_SECONDS_MIN (-62135596800ll) /* 0001-01-01T00:00:00Z */
#define TIME_SECONDS_MAX 253402300799ll   /* 9999-12-31T23:59:59Z */

/* Days since 1970-01-01 of a Gregorian date, years counted from March so that the leap day is the last one. */
static int64_t days_of(int64_t year, int month, int day) {
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = y / 400, in_era = y - era * 400; /* y >= 0 */
    int64_t in_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719468;
}

static void date_of(int64_t days, int *year, int *month, int *day) {
    days += 719468; /* since 0000-03-01; not negative in our range */
    int64_t era = days / 146097, d = days - era * 146097;
    int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    int64_t in_year = d - (365 * y + y / 4 - y / 100), m = (5 * in_year + 2) / 153;
    *day = (int)(in_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = (int)(y + era * 400 + (*month <= 2));
}

static int month_days(int64_t year, int month) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* n digits, then the character `after` (0: none). */
static bool read_number(struct reader *r, int n, char after, int *out) {
    *out = 0;
    for (int i = 0; i < n; i++) {
        uint8_t c = read_u8(r);
        if (c < '0' || c > '9') return false;
        *out = *out * 10 + (c - '0');
    }
    return after == 0 || read_u8(r) == (uint8_t)after;
}

static bool read_fraction(struct reader *r, int32_t *nanos) {
    int32_t unit = 100000000;
    size_t n = 0;
    for (; reader_left(r) && *r->at >= '0' && *r->at <= '9'; n++, unit /= 10) *nanos += (read_u8(r) - '0') * unit;
    return n >= 1 && n <= 9;
}

static bool read_zone(struct reader *r, int64_t *offset_s) {
    if (reader_left(r) == 0) return true;
    uint8_t c = read_u8(r);
    if (c == 'Z' || c == 'z') return true;
    int h, m;
    if ((c != '+' && c != '-') || !read_number(r, 2, ':', &h) || !read_number(r, 2, 0, &m) || h > 23 || m > 59) return false;
    *offset_s = (c == '-' ? -1 : 1) * (h * 3600 + m * 60);
    return true;
}

bool time_parse(struct slice text, int64_t *seconds, int32_t *nanos) {
    struct reader r = reader_of(text);
    int year, month, day, h = 0, m = 0, s = 0;
    int64_t offset_s = 0;
    *nanos = 0;
    if (!read_number(&r, 4, '-', &year) || !read_number(&r, 2, '-', &month) || !read_number(&r, 2, 0, &day)) return false;
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > month_days(year, month)) return false;
    if (reader_left(&r)) {
        uint8_t t = read_u8(&r);
        if ((t != 'T' && t != 't' && t != ' ') || !read_number(&r, 2, ':', &h) || !read_number(&r, 2, ':', &m) || !read_number(&r, 2, 0, &s)) return false;
        if (h > 23 || m > 59 || s > 59) return false; /* no leap seconds in a protobuf timestamp */
        if (reader_left(&r) && *r.at == '.' && (read_u8(&r), !read_fraction(&r, nanos))) return false;
        if (!read_zone(&r, &offset_s)) return false;
    }
    if (r.bad || reader_left(&r)) return false;
    *seconds = days_of(year, month, day) * 86400 + h * 3600 + m * 60 + s - offset_s;
    return *seconds >= TIME_SECONDS_MIN && *seconds <= TIME_SECONDS_MAX;
}

void time_format(int64_t seconds, int32_t nanos, char out[TIME_TEXT_BYTES]) {
    if (seconds < TIME_SECONDS_MIN || seconds > TIME_SECONDS_MAX || nanos < 0 || nanos > 999999999) {
        snprintf(out, TIME_TEXT_BYTES, "(time out of range)");
        return;
    }
    int64_t days = (seconds - TIME_SECONDS_MIN) / 86400 + TIME_SECONDS_MIN / 86400, s = (seconds - TIME_SECONDS_MIN) % 86400;
    static_assert(TIME_SECONDS_MIN % 86400 == 0, "the range starts at midnight");
    int year, month, day;
    date_of(days, &year, &month, &day);
    int n = snprintf(out, TIME_TEXT_BYTES, "%04d-%02d-%02dT%02d:%02d:%02d", year, month, day, (int)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
    int digits = nanos == 0 ? 0 : nanos % 1000000 == 0 ? 3 : nanos % 1000 == 0 ? 6 : 9;
    if (digits) {
        n += snprintf(out + n, TIME_TEXT_BYTES - (size_t)n, ".%09d", nanos) - (9 - digits);
    }
    out[n] = 'Z';
    out[n + 1] = 0;
}

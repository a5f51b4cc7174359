/* What was asked for, and what was measured, as words and as JSON. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <sys/resource.h>

static bool is_mode(const char *word) {
    static const char *const modes[] = {"create_patch", "creation_with_upload", "head", "bytes",
                                        "trickle"};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (!strcmp(word, modes[i])) return true;
    }
    return false;
}

static bool take(struct options *o, const char *name, const char *value) {
    if (!strcmp(name, "--path")) o->path = value;
    else if (!strcmp(name, "--port")) o->port = atoi(value);
    else if (!strcmp(name, "--connections")) o->connections = atoi(value);
    else if (!strcmp(name, "--size")) o->size = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--piece")) o->piece = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--most")) o->most = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--most-errors")) o->most_errors = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--seconds")) o->seconds = atof(value);
    else if (!strcmp(name, "--warm")) o->warm = atof(value);
    else return false;
    return true;
}

bool read_options(struct options *o, int count, char **words) {
    bool good = count >= 2 && count % 2 == 0 && is_mode(words[1]);
    if (good) o->mode = words[1];
    for (int i = 2; good && i < count; i += 2) good = take(o, words[i], words[i + 1]);
    if (good && o->port > 0 && o->connections > 0 && o->size > 0 && o->seconds > 0) return true;
    fprintf(stderr, "usage: load create_patch|creation_with_upload|head|bytes|trickle --port N\n"
                    "    [--path /files/] [--connections N] [--size BYTES] [--piece BYTES]\n"
                    "    [--seconds S] [--warm S] [--most OPERATIONS] [--most-errors N]\n");
    return false;
}

void add_time(struct totals *t, double seconds) {
    if (t->held == t->room) {
        t->room = t->room ? 2 * t->room : 4096;
        t->times = realloc(t->times, t->room * sizeof *t->times);
        if (t->times == NULL) abort();
    }
    t->times[t->held++] = (float)(seconds * 1e3);
}

static int compare(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

/* Return the time in ms that this share of the operations did not exceed. */
static double percentile(const struct totals *t, double share) {
    if (t->held == 0) return 0;
    size_t at = (size_t)(share * (double)t->held);
    return t->times[at < t->held ? at : t->held - 1];
}

static double own_cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void print_text(const char *text) {
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar((unsigned char)*text < ' ' ? ' ' : *text);
    }
}

void print_totals(struct totals *t, const struct options *o, double seconds) {
    qsort(t->times, t->held, sizeof *t->times, compare);
    double per_second = seconds > 0 ? 1 / seconds : 0;
    printf("{\"mode\": \"%s\", \"connections\": %d, \"seconds\": %.4f, \"operations\": %lu, "
           "\"uncounted\": %lu, \"ops_per_s\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"bytes\": %lu, "
           "\"mb_per_s\": %.1f, \"client_cpu_s\": %.3f, \"errors\": %lu, \"first_error\": \"",
           o->mode, o->connections, seconds, (unsigned long)t->operations,
           (unsigned long)t->uncounted,
           (double)t->operations * per_second, percentile(t, .5), percentile(t, .99),
           (unsigned long)t->bytes, (double)t->bytes * per_second / 1e6, own_cpu(),
           (unsigned long)t->errors);
    print_text(t->first_error);
    printf("\"}\n");
}

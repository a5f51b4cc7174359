/* A load generator for any server that speaks tus 1.0.0.
 *
 *     load MODE --port N [--path /files/] [--connections N] [--size BYTES] [--piece BYTES]
 *          [--seconds S] [--warm S] [--most OPERATIONS] [--most N]
 *
 * create_patch          each connection creates an upload and sends its bytes by PATCH, again and again
 * creation_with_upload  each connection creates uploads with their bytes
 * head                  each connection asks for uploads that it created before
 * bytes                 each connection sends one upload of --size bytes in PATCHes of --piece bytes
 * trickle               each connection's PATCH brings a few bytes a second for --seconds, while one
 *                       more connection asks for an upload of its own; that one's times are told
 *
 * One thread, raw sockets, epoll; requests are built before, large bodies go by sendfile from memory.
 * Every status and Upload-Offset is checked: what is not as it should be is an error, and counted.
 * What was measured is one line of JSON. Exit status: 0 measured, 2 wrong words, 1 could not begin.
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

enum {
    HEADS_EACH = 8,       /* uploads that a connection asks for in turn */
    CREATING_AT_ONCE = 64, /* so that thousands of uploads do not begin in one moment */
    TRICKLE_BYTES = 16,
};
static const double PATIENCE = 30, PROBE_EVERY = 0.01;

static struct options options = {
    .path = "/files/", .connections = 1, .size = 10240, .seconds = 2, .most = UINT64_MAX,
    .most_errors = 100};
static struct connection *connections, *probe;
static struct totals totals;
static int poller;
static double began, counted_from, ends;
/* Connections that have not made what the measurement needs, and the next one to begin with it. */
static int unprepared, next_to_prepare, unfinished;
static uint64_t ticks;

double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static bool is(const char *mode) { return !strcmp(options.mode, mode); }

static bool is_timed(void) { return !is("bytes") && !is("trickle"); }

static bool is_measuring(void) { return began > 0; }

/* Connections */

static void hang_up(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->busy = false;
}

static bool dial(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* A full backlog keeps this one waiting, not all: what is sent before waits for EPOLLOUT. */
    int connected = connect(c->fd, (struct sockaddr *)&address, sizeof address);
    if (connected < 0 && errno != EINPROGRESS) return false;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->wants_out = false;
    return epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) == 0;
}

static void listen_for(struct connection *c, bool out) {
    if (c->wants_out == out) return;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->wants_out = out;
}

/* Requests */

static void begin(struct connection *c);
static void prepare_next(void);

static void fail(struct connection *c, const char *what) {
    if (totals.errors++ == 0) {
        snprintf(totals.first_error, sizeof totals.first_error, "%s: %s", kind_name(c->kind), what);
        fprintf(stderr, "load: first error: %s\n", totals.first_error);
    }
    bool prepared = c->prepared;
    hang_up(c);
    if (c == probe || is_timed()) {
        c->retry_at = now() + 0.01;
    } else {
        /* An upload that failed is not sent again: the others go on. */
        c->finished = true;
        unfinished--;
        if (!prepared) unprepared--, prepare_next();
    }
}

static void flush(struct connection *c) {
    enum sent sent = send_some(c);
    if (sent == SENT_BROKEN) {
        /* What the server said before it closed is more to the point. */
        listen_for(c, false);
        return;
    }
    listen_for(c, sent == SENT_PART);
}

static void start(struct connection *c, enum kind kind, const char *path, uint64_t length) {
    if (c->fd < 0 && !dial(c)) {
        c->kind = kind;
        fail(c, strerror(errno));
        return;
    }
    build_request(c, &options, kind, path, length);
    c->busy = true;
    c->began = c->moved = now();
    flush(c);
}

static void append(struct connection *c) {
    uint64_t left = options.size - c->offset;
    uint64_t piece = options.piece && options.piece < left ? options.piece : left;
    start(c, PATCH, c->path, piece);
}

/* Begin what a connection has to do next. */
static void begin(struct connection *c) {
    c->retry_at = 0;
    if (c == probe) {
        start(c, c->prepared ? HEAD : CREATE, c->prepared ? c->path : options.path, 0);
    } else if (is("creation_with_upload")) {
        start(c, UPLOAD, options.path, options.size);
    } else if (is("head") && c->prepared) {
        start(c, HEAD, c->paths[c->turn++ % HEADS_EACH], 0);
    } else if (is("head") || is("create_patch") || !c->prepared) {
        start(c, CREATE, options.path, 0);
    } else {
        append(c);
    }
}

static void sample(struct connection *c) {
    double at = now();
    if (!is_measuring()) return;
    if (at < counted_from) {
        /* So many are warm. */
        if (++totals.uncounted > options.most / 4) totals.ended = counted_from = at;
        return;
    }
    totals.operations++;
    totals.ended = at;
    add_time(&totals, at - c->operation_began);
}

static void prepare_next(void) {
    if (next_to_prepare < options.connections) begin(&connections[next_to_prepare++]);
}

static void be_prepared(struct connection *c) {
    c->prepared = true;
    unprepared--;
    if (is("trickle")) hang_up(c);
    prepare_next();
}

static void remember(struct connection *c) {
    snprintf(c->paths[c->created++ % HEADS_EACH], sizeof c->paths[0], "%s", c->path);
    if (c->created == HEADS_EACH) {
        be_prepared(c);
    } else {
        begin(c);
    }
}

/* An answer came that is as it should be. */
static void go_on(struct connection *c) {
    if (c->closing) hang_up(c);
    if (c == probe) {
        if (c->prepared) sample(c);
        if (!c->prepared) c->prepared = true, unprepared--;
        c->retry_at = now() + PROBE_EVERY;
        return;
    }
    bool created = c->kind == CREATE;
    totals.bytes += is_measuring() ? c->length : 0;
    if (created && is("create_patch")) {
        append(c);
    } else if (created && is("head")) {
        remember(c);
    } else if (created) {
        be_prepared(c);
    } else if (is_timed()) {
        sample(c);
        c->operation_began = now();
        begin(c);
    } else if (c->offset < options.size) {
        if (is("bytes")) sample(c), c->operation_began = now();
        begin(c);
    } else {
        if (is("bytes")) sample(c);
        c->finished = true;
        unfinished--;
        hang_up(c);
    }
}

static void hear(struct connection *c) {
    enum heard heard = receive_some(c);
    if (heard == HEARD_PART) {
        c->moved = now();
        return;
    }
    c->busy = false;
    const char *wrong = heard == HEARD_ALL ? judge(c) : "the server closed the connection";
    if (wrong != NULL) {
        fail(c, wrong);
    } else {
        go_on(c);
    }
}

static void on_event(struct connection *c, uint32_t events) {
    if (c->fd < 0) return;
    if (!c->busy) {
        /* Nothing was asked: a server may close what is idle. */
        hang_up(c);
        return;
    }
    if (events & EPOLLOUT) {
        c->moved = now();
        flush(c);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) hear(c);
}

/* Time */

static void drop_a_few(struct connection *c) {
    if (c->finished) return;
    if (!c->busy) {
        start(c, PATCH, c->path, options.size);
        c->operation_began = c->began;
    }
    if (c->busy) c->allowed += TRICKLE_BYTES, flush(c);
}

/* Have every connection send its few bytes once a second, one after the other. */
static void trickle(double at) {
    uint64_t last = (uint64_t)(options.seconds * options.connections);
    uint64_t due = (uint64_t)((at - began) * options.connections);
    for (; ticks < (due < last ? due : last); ticks++) {
        drop_a_few(&connections[ticks % (uint64_t)options.connections]);
    }
}

static void look_after(struct connection *c, double at) {
    if (c->retry_at > 0 && at >= c->retry_at) {
        c->operation_began = at;
        begin(c);
    } else if (c->busy && at - c->moved > PATIENCE && (c->body_left == 0 || !c->trickling)) {
        fail(c, "no answer for 30 s");
    }
}

static void set_off(void) {
    began = now();
    counted_from = began + (is_timed() ? options.warm : 0);
    ends = is_timed() ? counted_from + options.seconds : began + 600;
    totals.ended = counted_from;
    for (int i = 0; i < options.connections; i++) {
        connections[i].operation_began = began;
        if (!is("trickle") && !connections[i].finished) begin(&connections[i]);
    }
}

static bool is_over(double at) {
    if (totals.errors >= options.most_errors) return true;
    if (!is_measuring()) return false;
    if (at >= ends || totals.operations >= options.most) return true;
    return !is_timed() && unfinished == 0;
}

static void run(void) {
    struct epoll_event events[256];
    double looked = 0;
    for (double at = now(); !is_over(at); at = now()) {
        if (!is_measuring() && unprepared == 0) set_off();
        int found = epoll_wait(poller, events, 256, is("trickle") ? 1 : 20);
        for (int i = 0; i < found; i++) on_event(events[i].data.ptr, events[i].events);
        if (is("trickle") && is_measuring()) trickle(now());
        if (probe != NULL) look_after(probe, at);
        if (at - looked < 0.05) continue;
        looked = at;
        for (int i = 0; i < options.connections; i++) look_after(&connections[i], at);
    }
    if (!is_timed() && unfinished > 0) totals.errors += (uint64_t)unfinished;
}

static void prepare(void) {
    bool needs_uploads = !is("create_patch") && !is("creation_with_upload");
    unfinished = options.connections;
    if (is("trickle")) {
        probe = calloc(1, sizeof *probe);
        probe->fd = -1;
        probe->retry_at = 1e-9;
        options.size = (uint64_t)(TRICKLE_BYTES * options.seconds);
    }
    unprepared = (needs_uploads ? options.connections : 0) + (probe != NULL);
    for (int i = 0; needs_uploads && i < CREATING_AT_ONCE; i++) prepare_next();
}

static void raise_limit(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int main(int count, char **words) {
    if (!read_options(&options, count, words)) return 2;
    signal(SIGPIPE, SIG_IGN);
    raise_limit();
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    if (poller < 0 || connections == NULL || !make_pattern()) {
        perror("load");
        return 1;
    }
    for (int i = 0; i < options.connections; i++) connections[i].fd = -1;
    prepare();
    run();
    print_totals(&totals, &options, began > 0 ? totals.ended - counted_from : 0);
    return 0;
}

/* How requests of tus 1.0.0 leave, how answers arrive, and whether they are right. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

enum { PATTERN = 64 * 1024 * 1024, SMALL = 64 * 1024 };

static int pattern;
static char *pattern_bytes;

/* Make the bytes that every body is cut from: no zeros, and no two blocks alike. */
bool make_pattern(void) {
    pattern = memfd_create("body", MFD_CLOEXEC);
    if (pattern < 0 || ftruncate(pattern, PATTERN) < 0) return false;
    pattern_bytes = mmap(NULL, PATTERN, PROT_READ | PROT_WRITE, MAP_SHARED, pattern, 0);
    if (pattern_bytes == MAP_FAILED) return false;
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < PATTERN; i += sizeof state) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memcpy(pattern_bytes + i, &state, sizeof state);
    }
    return true;
}

const char *kind_name(enum kind kind) {
    static const char *const names[] = {"creation", "creation with upload", "PATCH", "HEAD"};
    return names[kind];
}

static int write_patch(struct connection *c, const struct options *o, const char *path) {
    return snprintf(c->head, sizeof c->head,
                    "PATCH %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTus-Resumable: 1.0.0\r\n"
                    "Content-Type: application/offset+octet-stream\r\nUpload-Offset: %lu\r\n"
                    "Content-Length: %lu\r\n\r\n",
                    path, o->port, (unsigned long)c->offset, (unsigned long)c->length);
}

static int write_create(struct connection *c, const struct options *o, const char *path) {
    static const char type[] = "Content-Type: application/offset+octet-stream\r\n";
    return snprintf(c->head, sizeof c->head,
                    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTus-Resumable: 1.0.0\r\n"
                    "Upload-Length: %lu\r\nUpload-Metadata: filename Y2FyLm1wNA==,"
                    "filetype dmlkZW8vbXA0\r\n%s"
                    "Content-Length: %lu\r\n\r\n",
                    path, o->port, (unsigned long)o->size, c->kind == UPLOAD ? type : "",
                    (unsigned long)c->length);
}

static int write_head(struct connection *c, const struct options *o, const char *path) {
    return snprintf(c->head, sizeof c->head,
                    "HEAD %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTus-Resumable: 1.0.0\r\n\r\n", path,
                    o->port);
}

void build_request(struct connection *c, const struct options *o, enum kind kind, const char *path,
                   uint64_t length) {
    c->kind = kind;
    if (kind == CREATE || kind == UPLOAD) c->offset = 0;
    c->length = c->body_left = length;
    c->trickling = !strcmp(o->mode, "trickle");
    c->allowed = 0;
    c->head_sent = c->answer_length = 0;
    c->closing = false;
    int written = kind == PATCH  ? write_patch(c, o, path)
                  : kind == HEAD ? write_head(c, o, path)
                                 : write_create(c, o, path);
    c->head_length = (size_t)written;
}

/* A short body leaves with its head in one call. */
static ssize_t send_small(struct connection *c, uint64_t body) {
    struct iovec parts[2] = {
        {c->head + c->head_sent, c->head_length - c->head_sent},
        {pattern_bytes + (c->offset + c->length - c->body_left) % PATTERN, body},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (sent <= 0) return sent;
    size_t of_head = (size_t)sent < parts[0].iov_len ? (size_t)sent : parts[0].iov_len;
    c->head_sent += of_head;
    c->body_left -= (size_t)sent - of_head;
    return sent;
}

static ssize_t send_large(struct connection *c) {
    if (c->head_sent < c->head_length) {
        ssize_t sent = send(c->fd, c->head + c->head_sent, c->head_length - c->head_sent,
                            MSG_NOSIGNAL | MSG_MORE);
        if (sent > 0) c->head_sent += (size_t)sent;
        return sent;
    }
    off_t at = (off_t)((c->offset + c->length - c->body_left) % PATTERN);
    uint64_t most = (uint64_t)(PATTERN - at);
    ssize_t sent = sendfile(c->fd, pattern, &at, c->body_left < most ? c->body_left : most);
    if (sent > 0) c->body_left -= (uint64_t)sent;
    return sent;
}

static bool fits(const struct connection *c) {
    uint64_t at = (c->offset + c->length - c->body_left) % PATTERN;
    return c->length <= SMALL && at + c->body_left <= PATTERN;
}

/* Send what the socket takes of what may leave. */
enum sent send_some(struct connection *c) {
    for (;;) {
        uint64_t body = c->trickling && c->allowed < c->body_left ? c->allowed : c->body_left;
        if (c->head_sent == c->head_length && body == 0) return SENT_ALL;
        uint64_t before = c->body_left;
        ssize_t sent = fits(c) ? send_small(c, body) : send_large(c);
        if (c->trickling) c->allowed -= before - c->body_left;
        if (sent <= 0) return sent < 0 && errno == EAGAIN ? SENT_PART : SENT_BROKEN;
    }
}

/* Return the value of a header field, "" where it is not there. */
static const char *field(const char *head, const char *name) {
    static char value[512];
    size_t length = strlen(name);
    value[0] = '\0';
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) || line[length] != ':') continue;
        const char *text = line + length + 1 + strspn(line + length + 1, " \t");
        size_t count = strcspn(text, "\r\n");
        if (count >= sizeof value) count = sizeof value - 1;
        memcpy(value, text, count);
        value[count] = '\0';
        break;
    }
    return value;
}

static int status_of(const char *head) {
    return strncmp(head, "HTTP/1.1 ", 9) ? 0 : atoi(head + 9);
}

/* Tell whether the body that follows a head is there as a whole. */
static bool has_all(struct connection *c, const char *head, const char *body) {
    int status = status_of(head);
    if (c->kind == HEAD || status == 204 || status == 304) return true;
    size_t here = (size_t)(c->answer + c->answer_length - body);
    if (strcasestr(field(head, "transfer-encoding"), "chunked")) {
        return here >= 5 && !memcmp(body + here - 5, "0\r\n\r\n", 5);
    }
    return here >= strtoull(field(head, "content-length"), NULL, 10);
}

/* Drop interim answers (1xx); return whether a final one is there with its body. */
static bool is_answered(struct connection *c) {
    for (;;) {
        char *end = memmem(c->answer, c->answer_length, "\r\n\r\n", 4);
        if (end == NULL) return false;
        int status = status_of(c->answer);
        if (status < 100 || status >= 200) return has_all(c, c->answer, end + 4);
        size_t taken = (size_t)(end + 4 - c->answer);
        c->answer_length -= taken;
        memmove(c->answer, c->answer + taken, c->answer_length + 1);
    }
}

enum heard receive_some(struct connection *c) {
    size_t room = sizeof c->answer - 1 - c->answer_length;
    ssize_t got = recv(c->fd, c->answer + c->answer_length, room, 0);
    if (got < 0 && errno == EAGAIN) return HEARD_PART;
    if (got <= 0) return HEARD_END;
    c->answer_length += (size_t)got;
    c->answer[c->answer_length] = '\0';
    if (!is_answered(c)) return HEARD_PART;
    c->closing = !strcasecmp(field(c->answer, "connection"), "close");
    return HEARD_ALL;
}

static bool take_location(struct connection *c) {
    const char *location = field(c->answer, "location");
    const char *authority = strstr(location, "://");
    const char *path = authority ? strchr(authority + 3, '/') : location;
    if (path == NULL || path[0] != '/') return false;
    snprintf(c->path, sizeof c->path, "%.255s", path);
    return true;
}

static const char *misses_status(struct connection *c, bool right) {
    static char said[128];
    if (right) return NULL;
    snprintf(said, sizeof said, "answered \"%.100s\"", c->answer);
    said[strcspn(said, "\r")] = '\0';
    return said;
}

static const char *misses_offset(struct connection *c, uint64_t expected) {
    static char said[128];
    const char *told = field(c->answer, "upload-offset");
    char *end;
    if (*told && strtoull(told, &end, 10) == expected && *end == '\0') return NULL;
    snprintf(said, sizeof said, "expected Upload-Offset %lu, got \"%.40s\"",
             (unsigned long)expected, told);
    return said;
}

/* Return what is wrong about an answer, NULL where nothing is; take from it what comes next. */
const char *judge(struct connection *c) {
    int status = status_of(c->answer);
    const char *wrong;
    if (c->body_left > 0) return misses_status(c, false);
    switch (c->kind) {
    case CREATE:
    case UPLOAD:
        if ((wrong = misses_status(c, status == 201)) != NULL) return wrong;
        if (!take_location(c)) return "no Location that can be asked";
        return c->kind == UPLOAD ? misses_offset(c, c->length) : NULL;
    case PATCH:
        if ((wrong = misses_status(c, status == 204)) != NULL) return wrong;
        c->offset += c->length;
        return misses_offset(c, c->offset);
    default:
        if ((wrong = misses_status(c, status == 200 || status == 204)) != NULL) return wrong;
        return misses_offset(c, c->offset);
    }
}

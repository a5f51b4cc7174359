/* What a load generator is made of: load.c decides, http.c speaks, figures.c counts. */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind { CREATE, UPLOAD, PATCH, HEAD };
enum sent { SENT_ALL, SENT_PART, SENT_BROKEN };
enum heard { HEARD_ALL, HEARD_PART, HEARD_END };

struct options {
    const char *mode, *path;
    int port, connections;
    uint64_t size, piece, most, most_errors;
    double seconds, warm;
};

struct connection {
    int fd;
    bool busy, wants_out, prepared, finished, closing;
    enum kind kind;
    double began, operation_began, moved, retry_at;
    /* The request: its head, then body_left bytes of the pattern. */
    char head[768];
    size_t head_length, head_sent;
    uint64_t length, body_left;
    /* How many bytes of body may leave; none keeps them all back. */
    uint64_t allowed;
    bool trickling;
    /* The answer. */
    char answer[8192];
    size_t answer_length;
    /* The upload. */
    char path[256];
    uint64_t offset;
    /* Uploads that this connection asks for in turn. */
    char paths[8][256];
    unsigned created, turn;
};

struct totals {
    uint64_t operations, uncounted, errors, bytes;
    double ended;
    float *times;
    size_t held, room;
    char first_error[256];
};

double now(void);

/* http.c */
bool make_pattern(void);
const char *kind_name(enum kind kind);
void build_request(struct connection *c, const struct options *o, enum kind kind, const char *path,
                   uint64_t length);
enum sent send_some(struct connection *c);
enum heard receive_some(struct connection *c);
const char *judge(struct connection *c);

/* figures.c */
bool read_options(struct options *o, int count, char **words);
void add_time(struct totals *t, double seconds);
void print_totals(struct totals *t, const struct options *o, double seconds);

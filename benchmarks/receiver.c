/* A bare receiver: the limit that any server of this machine can be compared with.
 *
 *     receiver splice|recv DIRECTORY PORT
 *
 * A thread a connection, no validation, no locks, no journal: POST makes a file, PATCH writes into
 * it, HEAD tells its size, all with the answers of tus 1.0.0. Large bodies move
 *   splice: from the socket through a pipe into the file, woken rarely (SO_RCVLOWAT);
 *   recv:   through a buffer of 256 KiB, recv + pwrite.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LOW_WATER = 512 * 1024,
    PIPE = 1024 * 1024,
    BUFFER = 256 * 1024,
    /* A smaller rest is not worth a pipe. */
    SMALL = 64 * 1024,
    REQUEST = 16 * 1024,
    STACK = 128 * 1024,
};

static bool splicing;
static int directory;
static atomic_ulong last_id;

struct connection {
    int socket;
    int pipe[2];
    char *buffer;
    char data[REQUEST];
    size_t have;
};

static uint64_t number(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? strtoull(found + strlen(name), NULL, 10) : 0;
}

static bool write_all(int file, const char *data, size_t count, off_t at) {
    while (count > 0) {
        ssize_t done = pwrite(file, data, count, at);
        if (done < 0) return false;
        data += done, count -= (size_t)done, at += done;
    }
    return true;
}

static bool copy(int from, int file, off_t at, uint64_t left, char *buffer, size_t room) {
    while (left > 0) {
        ssize_t got = recv(from, buffer, left < room ? left : room, 0);
        if (got <= 0 || !write_all(file, buffer, (size_t)got, at)) return false;
        left -= (uint64_t)got, at += got;
    }
    return true;
}

static bool open_pipe(struct connection *c) {
    if (c->pipe[0] >= 0) return true;
    if (pipe2(c->pipe, O_CLOEXEC) < 0) return false;
    fcntl(c->pipe[1], F_SETPIPE_SZ, PIPE);
    return true;
}

static void set_low_water(int socket, uint64_t left) {
    /* Above what remains it would wait for ever. */
    int bytes = left < LOW_WATER ? (left > 0 ? (int)left : 1) : LOW_WATER;
    setsockopt(socket, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

static bool move(struct connection *c, int file, off_t at, uint64_t left) {
    if (!open_pipe(c)) return false;
    set_low_water(c->socket, left);
    while (left > 0) {
        /* splice itself takes what little is there; poll waits for the low water. */
        struct pollfd ready = {.fd = c->socket, .events = POLLIN};
        poll(&ready, 1, -1);
        ssize_t got = splice(c->socket, NULL, c->pipe[1], NULL, left < PIPE ? left : PIPE,
                             SPLICE_F_MOVE | SPLICE_F_MORE);
        if (got <= 0) return false;
        left -= (uint64_t)got;
        if (left < LOW_WATER) set_low_water(c->socket, left);
        while (got > 0) {
            ssize_t done = splice(c->pipe[0], NULL, file, &at, (size_t)got, SPLICE_F_MOVE);
            if (done <= 0) return false;
            got -= done;
        }
    }
    return true;
}

static bool store(struct connection *c, int file, off_t at, size_t head, uint64_t length) {
    uint64_t here = c->have - head;
    if (here > length) here = length;
    if (!write_all(file, c->data + head, here, at)) return false;
    uint64_t left = length - here;
    at += (off_t)here;
    if (left == 0) return true;
    if (left <= SMALL) return copy(c->socket, file, at, left, c->data + head, REQUEST - head);
    if (splicing) return move(c, file, at, left);
    if (c->buffer == NULL && (c->buffer = malloc(BUFFER)) == NULL) return false;
    return copy(c->socket, file, at, left, c->buffer, BUFFER);
}

static bool answer(int socket, const char *text, size_t count) {
    return send(socket, text, count, MSG_NOSIGNAL) == (ssize_t)count;
}

static bool refuse(int socket) {
    static const char text[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    return answer(socket, text, sizeof text - 1);
}

static bool create(struct connection *c, size_t head, uint64_t length) {
    char name[32], text[256];
    snprintf(name, sizeof name, "%lu", ++last_id);
    int file = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return false;
    bool stored = length == 0 || store(c, file, 0, head, length);
    close(file);
    int count = snprintf(text, sizeof text,
                         "HTTP/1.1 201 Created\r\nTus-Resumable: 1.0.0\r\nLocation: /files/%s\r\n"
                         "Upload-Offset: %lu\r\nContent-Length: 0\r\n\r\n",
                         name, (unsigned long)length);
    return stored && answer(c->socket, text, (size_t)count);
}

static bool append(struct connection *c, const char *name, size_t head, uint64_t length) {
    uint64_t offset = number(c->data, "\nupload-offset:");
    int file = openat(directory, name, O_WRONLY | O_CLOEXEC);
    if (file < 0) return refuse(c->socket) && false;
    bool stored = store(c, file, (off_t)offset, head, length);
    close(file);
    char text[256];
    int count = snprintf(text, sizeof text,
                         "HTTP/1.1 204 No Content\r\nTus-Resumable: 1.0.0\r\n"
                         "Upload-Offset: %lu\r\n\r\n",
                         (unsigned long)(offset + length));
    return stored && answer(c->socket, text, (size_t)count);
}

static bool tell(struct connection *c, const char *name) {
    struct stat found;
    if (fstatat(directory, name, &found, 0) < 0) return refuse(c->socket);
    char text[256];
    int count = snprintf(text, sizeof text,
                         "HTTP/1.1 200 OK\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: %lu\r\n"
                         "Cache-Control: no-store\r\nContent-Length: 0\r\n\r\n",
                         (unsigned long)found.st_size);
    return answer(c->socket, text, (size_t)count);
}

/* Answer the request whose head is in c->data, and remove it there. */
static bool handle(struct connection *c, size_t head) {
    char method[8], path[128];
    if (sscanf(c->data, "%7s %127s", method, path) != 2) return false;
    uint64_t length = number(c->data, "\ncontent-length:");
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    bool done = !strcmp(method, "POST")    ? create(c, head, length)
                : !strcmp(method, "PATCH") ? append(c, name, head, length)
                                           : tell(c, name);
    size_t taken = head + (length < c->have - head ? (size_t)length : c->have - head);
    memmove(c->data, c->data + taken, c->have - taken);
    c->have -= taken;
    return done;
}

/* Read until the head of a request is there; return its length, 0 at the end. */
static size_t next_head(struct connection *c) {
    for (;;) {
        c->data[c->have] = '\0';
        char *end = strstr(c->data, "\r\n\r\n");
        if (end != NULL) {
            end[3] = '\0';
            return (size_t)(end + 4 - c->data);
        }
        if (c->have == REQUEST - 1) return 0;
        ssize_t got = recv(c->socket, c->data + c->have, REQUEST - 1 - c->have, 0);
        if (got <= 0) return 0;
        c->have += (size_t)got;
    }
}

static void *serve(void *given) {
    struct connection *c = given;
    for (size_t head; (head = next_head(c)) > 0 && handle(c, head);) {
    }
    close(c->socket);
    if (c->pipe[0] >= 0) close(c->pipe[0]), close(c->pipe[1]);
    free(c->buffer);
    free(c);
    return NULL;
}

static void begin(int socket, const pthread_attr_t *attributes) {
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *c = malloc(sizeof *c);
    if (c == NULL) {
        close(socket);
        return;
    }
    c->socket = socket, c->pipe[0] = c->pipe[1] = -1, c->buffer = NULL, c->have = 0;
    pthread_t thread;
    if (pthread_create(&thread, attributes, serve, c) != 0) {
        close(socket);
        free(c);
    }
}

static int listen_on(int port) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) return -1;
    return listen(listener, 4096) < 0 ? -1 : listener;
}

int main(int count, char **words) {
    if (count != 4) {
        fprintf(stderr, "usage: receiver splice|recv DIRECTORY PORT\n");
        return 2;
    }
    splicing = !strcmp(words[1], "splice");
    directory = open(words[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int listener = listen_on(atoi(words[3]));
    if (directory < 0 || listener < 0) {
        perror("receiver");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (socket >= 0) {
            begin(socket, &attributes);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            usleep(1000);
        }
    }
}

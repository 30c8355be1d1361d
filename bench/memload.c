/* Load for a server of the memcache text protocol: one thread, epoll, one request at a time on each connection.
 *
 *   memload HOST PORT get|set|mixed|fill BYTES CONNECTIONS KEYS SECONDS SEED
 *
 * fill stores every key once; get, set and mixed (four gets to a set) take random keys until SECONDS have passed. Each
 * value begins with its key, and every answer is checked: its first line, its length, the key in the value. Prints one
 * line of JSON; latencies in microseconds. Exit status 0 when the load ran (errors are counted, not fatal), 1 when it
 * could not.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { KEY_BYTES_MAX = 16, HEAD_BYTES_MAX = 128, SLOTS = 128 * 40 };

struct link {
    int fd;
    char key[KEY_BYTES_MAX + 1];
    size_t key_bytes; /* that the value begins with */
    char *out; /* the request: room for head, value and line end */
    size_t out_len, out_sent;
    char *in; /* the answer */
    size_t in_len, in_need; /* in_need 0: the first line has not come whole */
    uint64_t sent_ns;
    int busy, setting;
};

static char *op;
static size_t value_bytes, in_cap;
static long keys, next_key;
static uint64_t done, misses, errors, wrong, latency[SLOTS], latency_max, random_state;
static char first_error[HEAD_BYTES_MAX];
static int filling, set_of_five; /* so many of five requests store, on average */

static void die(const char *what) {
    fprintf(stderr, "memload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(void) { /* splitmix64 */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Slots under 0.8 % wide: each microsecond below 256, then 128 for each power of two. */
static void record(uint64_t us) {
    int shift = us < 256 ? 0 : 64 - __builtin_clzll(us) - 8;
    size_t slot = ((size_t)shift << 7) + (us >> shift);
    latency[slot < SLOTS ? slot : SLOTS - 1]++;
    if (us > latency_max) latency_max = us;
}

static uint64_t percentile(double percent) {
    double wanted = (double)done * percent / 100;
    uint64_t seen = 0;
    for (size_t slot = 0; slot < SLOTS; slot++) {
        seen += latency[slot];
        if (latency[slot] && (double)seen >= wanted) {
            size_t shift = slot < 256 ? 0 : (slot >> 7) - 1;
            uint64_t end = ((slot - (shift << 7) + 1) << shift) - 1;
            return end < latency_max ? end : latency_max;
        }
    }
    return 0;
}

static void flush_out(struct link *l) {
    while (l->out_sent < l->out_len) {
        ssize_t n = send(l->fd, l->out + l->out_sent, l->out_len - l->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return; /* EPOLLOUT is edge-triggered and always on */
        if (n < 0) die("send");
        l->out_sent += (size_t)n;
    }
}

static void begin(struct link *l) {
    long key = filling ? next_key++ : (long)(next_random() % (uint64_t)keys);
    size_t key_bytes = (size_t)snprintf(l->key, sizeof l->key, "bench/%06ld", key);
    l->key_bytes = value_bytes < key_bytes ? value_bytes : key_bytes;
    l->setting = (int)(next_random() % 5) < set_of_five;
    if (l->setting) {
        int head = snprintf(l->out, HEAD_BYTES_MAX, "set %s 0 0 %zu\r\n", l->key, value_bytes);
        memset(l->out + head, 'v', value_bytes);
        memcpy(l->out + head, l->key, l->key_bytes);
        memcpy(l->out + head + value_bytes, "\r\n", 2);
        l->out_len = (size_t)head + value_bytes + 2;
    } else {
        l->out_len = (size_t)snprintf(l->out, HEAD_BYTES_MAX, "get %s\r\n", l->key);
    }
    l->out_sent = l->in_len = l->in_need = 0;
    l->busy = 1;
    l->sent_ns = now_ns();
    flush_out(l);
}

static void note_error(struct link *l) {
    if (!errors++) snprintf(first_error, sizeof first_error, "%.*s", (int)strcspn(l->in, "\r\n\"\\"), l->in);
}

/* Whether the answer is whole; then it has been judged. */
static int judge(struct link *l) {
    if (!l->in_need) {
        l->in[l->in_len] = 0;
        char *end = memchr(l->in, '\n', l->in_len);
        if (!end) return 0;
        size_t line = (size_t)(end - l->in) + 1, length;
        if (!l->setting && sscanf(l->in, "VALUE %*s %*u %zu", &length) == 1) {
            l->in_need = line + length + 7; /* CRLF END CRLF */
            if (l->in_need > in_cap) { errno = EMSGSIZE; die("answer"); }
        } else {
            l->in_need = line;
        }
    }
    if (l->in_len < l->in_need) return 0;
    uint64_t us = (now_ns() - l->sent_ns) / 1000;
    if (l->in_len > l->in_need) {
        wrong++;
    } else if (l->setting) {
        if (!strncmp(l->in, "STORED\r\n", 8)) { done++; record(us); } else note_error(l);
    } else if (!strncmp(l->in, "VALUE ", 6)) {
        size_t line = (size_t)((char *)memchr(l->in, '\n', l->in_len) - l->in) + 1;
        if (l->in_need != line + value_bytes + 7 || memcmp(l->in + line, l->key, l->key_bytes) ||
            memcmp(l->in + l->in_need - 7, "\r\nEND\r\n", 7)) wrong++;
        else { done++; record(us); }
    } else if (!strncmp(l->in, "END\r\n", 5)) {
        misses++;
    } else {
        note_error(l);
    }
    l->busy = 0;
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 9) {
        fprintf(stderr, "usage: memload HOST PORT get|set|mixed|fill BYTES CONNECTIONS KEYS SECONDS SEED\n");
        return 1;
    }
    op = argv[3];
    filling = !strcmp(op, "fill");
    set_of_five = filling || !strcmp(op, "set") ? 5 : !strcmp(op, "mixed") ? 1 : 0;
    value_bytes = strtoul(argv[4], 0, 10);
    int links = atoi(argv[5]);
    keys = atol(argv[6]);
    if (keys < 1 || keys > 1000000000) { errno = ERANGE; die("KEYS"); }
    double seconds = atof(argv[7]);
    random_state = strtoull(argv[8], 0, 10);
    in_cap = value_bytes + 4096;

    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) { errno = EINVAL; die(argv[1]); }
    int poller = epoll_create1(0);
    struct link *all = calloc((size_t)links, sizeof *all);
    for (int i = 0; i < links; i++) {
        struct link *l = &all[i];
        int one = 1;
        l->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (l->fd < 0 || connect(l->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
        setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        l->out = malloc(HEAD_BYTES_MAX + value_bytes + 2);
        l->in = malloc(in_cap + 1);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = l};
        if (!l->out || !l->in || epoll_ctl(poller, EPOLL_CTL_ADD, l->fd, &e)) die("set-up");
    }

    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
    int busy = 0;
    for (int i = 0; i < links && !(filling && next_key >= keys); i++, busy++) begin(&all[i]);
    struct epoll_event events[256];
    while (busy) {
        int n = epoll_wait(poller, events, 256, 15000);
        if (n == 0) { errno = ETIMEDOUT; die("no answer for 15 s"); }
        for (int i = 0; i < n; i++) {
            struct link *l = events[i].data.ptr;
            if (!l->busy) continue;
            flush_out(l);
            for (;;) {
                ssize_t got = recv(l->fd, l->in + l->in_len, in_cap - l->in_len, MSG_DONTWAIT);
                if (got < 0 && errno == EAGAIN) break;
                if (got <= 0) { if (!got) errno = ECONNRESET; die("recv"); }
                l->in_len += (size_t)got;
                if (!judge(l)) continue;
                if (filling ? next_key < keys : now_ns() < end) begin(l);
                else { busy--; break; }
            }
        }
    }
    double took = (double)(now_ns() - start) / 1e9;
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    printf("{\"op\": \"%s\", \"done\": %lu, \"seconds\": %.3f, \"rate\": %.1f, \"misses\": %lu, \"errors\": %lu, \"wrong\": %lu, "
           "\"first_error\": \"%s\", \"p50_us\": %lu, \"p90_us\": %lu, \"p99_us\": %lu, \"max_us\": %lu, \"cpu_share\": %.2f}\n",
           op, done, took, (double)done / took, misses, errors, wrong, first_error, percentile(50), percentile(90),
           percentile(99), latency_max, cpu / took);
    return 0;
}

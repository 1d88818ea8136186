/* An echo server with libuv: one loop, one buffer that all clients share; a write is queued only
 * if the kernel does not accept all bytes at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BUFFER_BYTES = 256 * 1024, BACKLOG = 4096 };

static char buffer[BUFFER_BYTES];

/* Bytes that the kernel did not accept at once. */
struct rest {
    uv_write_t request;
    char bytes[];
};

static void on_read(uv_stream_t *client, ssize_t count, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)handle, (void)suggested;
    *buf = uv_buf_init(buffer, sizeof buffer);
}

static void on_close(uv_handle_t *handle) { free(handle); }

static void end(uv_stream_t *client) {
    if (!uv_is_closing((uv_handle_t *)client)) uv_close((uv_handle_t *)client, on_close);
}

static void on_written(uv_write_t *request, int status) {
    uv_stream_t *client = request->handle;
    free(request);
    if (status < 0 || uv_read_start(client, on_alloc, on_read)) end(client);
}

/* Queues the rest of a reply; nothing more is read from the client until it is written. */
static void write_later(uv_stream_t *client, const char *bytes, size_t count) {
    struct rest *rest = malloc(sizeof *rest + count);
    if (!rest) return end(client);
    memcpy(rest->bytes, bytes, count);
    uv_buf_t buf = uv_buf_init(rest->bytes, count);
    uv_read_stop(client);
    if (uv_write(&rest->request, client, &buf, 1, on_written)) {
        free(rest);
        end(client);
    }
}

static void on_read(uv_stream_t *client, ssize_t count, const uv_buf_t *buf) {
    if (count < 0) return end(client);
    for (ssize_t i = 0; i < count; i++) {
        /* The compiler vectorises this, unlike toupper. */
        char byte = buf->base[i];
        buf->base[i] = byte - ((byte >= 'a' && byte <= 'z') << 5);
    }
    uv_buf_t all = uv_buf_init(buf->base, count);
    int sent = count > 0 ? uv_try_write(client, &all, 1) : 0;
    if (sent < 0 && sent != UV_EAGAIN) return end(client);
    if (sent < 0) sent = 0;
    if (sent < count) write_later(client, buf->base + sent, count - sent);
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0) return;
    uv_tcp_t *client = malloc(sizeof *client);
    if (!client) return;
    uv_tcp_init(listener->loop, client);
    if (uv_accept(listener, (uv_stream_t *)client)) return end((uv_stream_t *)client);
    uv_tcp_nodelay(client, 1);
    if (uv_read_start((uv_stream_t *)client, on_alloc, on_read)) end((uv_stream_t *)client);
}

int main(void) {
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in address;
    int length = sizeof address;
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(loop, &listener);
    if (uv_tcp_bind(&listener, (struct sockaddr *)&address, 0)) return 1;
    if (uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection)) return 1;
    uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &length);
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return uv_run(loop, UV_RUN_DEFAULT);
}

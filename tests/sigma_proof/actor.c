/* A stand-in for any program: it does what the file named by SIB_SPEC says, whatever its own path
 * and arguments are, and nothing else. The file is a list of NUL-terminated words. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char spec[1 << 20];
static char *words[8192];

static int start(char **w) {
    /* path, directory, uid, specification, arguments until the end */
    pid_t child = fork();
    if (child == 0) {
        if (chdir(w[1]) || setgid(atoi(w[2])) || setuid(atoi(w[2]))) _exit(90);
        char name[4200];
        snprintf(name, sizeof name, "SIB_SPEC=%s", w[3]);
        char *environment[] = {name, NULL};
        execve(w[0], w + 4, environment);
        _exit(91);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("%d %d\n", child, WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    fflush(stdout);
    return 0;
}

static int reach(char **w, int kind) {
    int family = strchr(w[0], ':') ? AF_INET6 : AF_INET;
    union { /* by family; the port stands at the same place in both */
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } to = {.six = {.sin6_family = family, .sin6_port = htons(atoi(w[1]))}};
    inet_pton(family, w[0], family == AF_INET ? (void *)&to.four.sin_addr : &to.six.sin6_addr);
    if (kind == 0) { /* a connection that succeeds: to itself */
        int listener = socket(family, SOCK_STREAM, 0), one = 1;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listener, &to.any, sizeof to) || listen(listener, 1)) return 1;
        return connect(socket(family, SOCK_STREAM, 0), &to.any, sizeof to) != 0;
    }
    int s = socket(family, kind | SOCK_NONBLOCK, 0);
    if (kind == SOCK_STREAM) return connect(s, &to.any, sizeof to) && errno != EINPROGRESS;
    unsigned char packet[600] = {0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    size_t at = 12;
    char *save, *part = strtok_r(w[2], ".", &save);
    for (; part; part = strtok_r(NULL, ".", &save)) {
        packet[at++] = strlen(part);
        memcpy(packet + at, part, strlen(part));
        at += strlen(part);
    }
    memcpy(packet + at, "\0\0\1\0\1", 5);
    return sendto(s, packet, at + 5, 0, &to.any, sizeof to) < 0;
}

int main(void) {
    const char *path = getenv("SIB_SPEC");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 80;
    ssize_t size = read(file, spec, sizeof spec - 1);
    close(file);
    int count = 0;
    for (char *at = spec; at < spec + size; at += strlen(at) + 1) words[count++] = at;
    words[count] = NULL;
    if (!count || !strcmp(words[0], "exit")) return 0;
    char **w = words + 1;
    if (!strcmp(words[0], "start")) return start(w);
    if (!strcmp(words[0], "fail")) { /* try to start what is not there, twice */
        char *none[] = {"none", NULL};
        for (int n = 0; n < 2; n++) execve("/nonexistent/none", none, none + 1);
        return 0;
    }
    if (!strcmp(words[0], "write")) return open(w[0], O_WRONLY | O_CREAT | O_TRUNC, 0600) < 0;
    if (!strcmp(words[0], "read")) return open(w[0], O_RDONLY) < 0;
    if (!strcmp(words[0], "rename")) return rename(w[0], w[1]) != 0;
    if (!strcmp(words[0], "link")) return symlink(w[0], w[1]) != 0;
    if (!strcmp(words[0], "connect")) return reach(w, SOCK_STREAM);
    if (!strcmp(words[0], "connect_ok")) return reach(w, 0);
    if (!strcmp(words[0], "query")) return reach(w, SOCK_DGRAM);
    if (!strcmp(words[0], "sysinfo")) { char b[512]; return syscall(SYS_sysinfo, b) != 0; }
    if (!strcmp(words[0], "mknod")) return syscall(SYS_mknod, w[0], S_IFIFO | 0600, 0) != 0;
    if (!strcmp(words[0], "memfd_create")) return syscall(SYS_memfd_create, "m", 0) < 0;
    return 81;
}

/* The part of the CANN stand-in that has to behave: one device made of host memory.
 *
 * Device memory is malloc, a copy is memcpy, streams run in order at once. Graph capture and the
 * events that a captured graph waits for are reported to an observer (inside/replay.py), which
 * records and re-runs what was captured. `build.py` generates every other symbol that the wheel
 * wants. The signatures follow the published acl headers; unused parameters are left out where the
 * calling convention allows it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 207000, OUT_OF_MEMORY = 207001, SYNC_IN_CAPTURE = 107027 };
enum { PAGE = 512 };
enum observed {
    CAPTURE_BEGIN, CAPTURE_END, GROUP_BEGIN, GROUP_END, UPDATE_BEGIN, UPDATE_END,
    EXECUTE, DESTROY, EVENT_WAIT, EVENT_RECORD, EVENT_RESET
};

typedef void (*observer)(int what, uintptr_t subject);
static observer tell = NULL;
static uintptr_t capturing = 0; /* the graph under capture, 0 where none is */
static uintptr_t next_handle = 0x1000;

static uintptr_t handle(void) { return next_handle += 0x10; }
static void report(enum observed what, const void *subject) {
    if (tell) tell(what, (uintptr_t)subject);
}

void standin_observe(observer given) { tell = given; }
uintptr_t standin_capturing(void) { return capturing; }

/* A symbol without behaviour: says its name, so that nothing that matters passes unseen. */
int standin_missing(const char *name) {
    fprintf(stderr, "stand-in: %s has no behaviour here\n", name);
    return NOT_SUPPORTED;
}

/* An operator's kernel: computes nothing. It is an error unless the process asked for structure
 * alone, since its output would be whatever the memory held. */
int standin_kernel(const char *name) {
    static int allowed = -1;
    if (allowed < 0) allowed = getenv("STANDIN_EMPTY_KERNELS") != NULL;
    return allowed ? OK : standin_missing(name);
}

/* One device. */
int aclInit(const char *path) { return OK; }
int aclFinalize(void) { return OK; }
int aclrtGetDeviceCount(unsigned *count) { *count = 1; return OK; }
int aclrtGetDevice(int *device) { *device = 0; return OK; }
int aclrtSetDevice(int device) { return OK; }
int aclrtResetDevice(int device) { return OK; }
int aclrtDeviceGetBareTgid(int *pid) { *pid = 1; return OK; }
const char *aclrtGetSocName(void) {
    const char *asked = getenv("STANDIN_SOC");
    return asked ? asked : "Ascend910B1";
}
const char *aclGetRecentErrMsg(void) { return "the CANN stand-in refused a call, see above"; }
void aclAppLog(void) {}
int aclGetDeviceCapability(unsigned device, int what, int64_t *value) { *value = 48; return OK; }
int aclrtGetCurrentContext(void **context) { *context = (void *)1; return OK; }
int aclrtSetCurrentContext(void *context) { return OK; }
int aclrtSetDeviceSatMode(int mode) { return OK; }
int aclSetCompileopt(int option, const char *value) { return OK; }
size_t aclGetCompileoptSize(int option) { return sizeof "disable"; }
int aclGetCompileopt(int option, char *value, size_t length) {
    strncpy(value, "disable", length); /* every compile option is a switch, and off */
    return OK;
}
int aclrtGetSysParamOpt(int option, int64_t *value) { *value = 0; return OK; }
int aclrtSetSysParamOpt(int option, int64_t value) { return OK; }
int aclrtSetOpExecuteTimeOut(unsigned seconds) { return OK; }
int aclmdlInitDump(void) { return OK; }
int aclmdlSetDump(const char *path) { return OK; }
int aclmdlFinalizeDump(void) { return OK; }

/* Its memory. */
int aclrtMallocAlign32(void **memory, size_t bytes, int policy) {
    *memory = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    return *memory ? OK : OUT_OF_MEMORY;
}
int aclrtMalloc(void **memory, size_t bytes, int policy) {
    return aclrtMallocAlign32(memory, bytes, policy);
}
int aclrtMallocHost(void **memory, size_t bytes) { return aclrtMallocAlign32(memory, bytes, 0); }
int aclrtFree(void *memory) { free(memory); return OK; }
int aclrtFreeHost(void *memory) { free(memory); return OK; }
int aclrtGetMemInfo(int kind, size_t *available, size_t *total) {
    *available = *total = (size_t)64 << 30; /* an Atlas 800 A2 card has 64 GiB */
    return OK;
}
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, int kind, void *stream) {
    memcpy(to, from, bytes);
    return OK;
}
int aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, int kind) {
    return aclrtMemcpyAsync(to, room, from, bytes, kind, NULL);
}
int aclrtMemset(void *memory, size_t room, int value, size_t bytes) {
    memset(memory, value, bytes);
    return OK;
}

/* Streams and events: everything runs at once and in order; a captured stream may not be waited for. */
int aclrtCreateStream(void **stream) { *stream = (void *)handle(); return OK; }
int aclrtCreateStreamWithConfig(void **stream, unsigned priority, unsigned flags) {
    return aclrtCreateStream(stream);
}
int aclrtDestroyStream(void *stream) { return OK; }
int aclrtDestroyStreamForce(void *stream) { return OK; }
int aclrtSynchronizeStream(void *stream) { return capturing ? SYNC_IN_CAPTURE : OK; }
int aclrtSynchronizeStreamWithTimeout(void *stream, int ms) { return aclrtSynchronizeStream(stream); }
int aclrtSynchronizeDevice(void) { return capturing ? SYNC_IN_CAPTURE : OK; }
int aclrtSynchronizeDeviceWithTimeout(int ms) { return aclrtSynchronizeDevice(); }
int aclrtGetStreamResLimit(void *stream, int kind, unsigned *value) { *value = 0; return OK; }
int aclrtSetStreamResLimit(void *stream, int kind, unsigned value) { return OK; }
int aclrtUseStreamResInCurrentThread(void *stream) { return OK; }
int aclrtCreateEventWithFlag(void **event, unsigned flag) { *event = (void *)handle(); return OK; }
int aclrtCreateEventExWithFlag(void **event, unsigned flag) { *event = (void *)handle(); return OK; }
int aclrtDestroyEvent(void *event) { return OK; }
int aclrtSynchronizeEvent(void *event) { return OK; }
int aclrtQueryEventStatus(void *event, int *status) { *status = 1; return OK; }
int aclrtQueryEventWaitStatus(void *event, int *status) { *status = 1; return OK; }
int aclrtRecordEvent(void *event, void *stream) { report(EVENT_RECORD, event); return OK; }
int aclrtStreamWaitEvent(void *stream, void *event) { report(EVENT_WAIT, event); return OK; }
int aclrtResetEvent(void *event, void *stream) { report(EVENT_RESET, event); return OK; }
/* An external event is a word of memory that the host sets and a captured graph waits for. */
int aclrtValueWrite(void *word, uint64_t value, unsigned flag, void *stream) {
    report(value ? EVENT_RECORD : EVENT_RESET, word);
    return OK;
}
int aclrtValueWait(void *word, uint64_t value, unsigned flag, void *stream) {
    report(EVENT_WAIT, word);
    return OK;
}
int aclrtCmoAsync(void *memory, size_t bytes, int kind, void *stream) { return OK; }

/* Graph capture. */
int aclmdlRICaptureBegin(void *stream, int mode) {
    capturing = handle();
    report(CAPTURE_BEGIN, (void *)capturing);
    return OK;
}
int aclmdlRICaptureGetInfo(void *stream, int *status, void **graph) {
    if (status) *status = capturing != 0;
    if (graph) *graph = (void *)capturing;
    return OK;
}
int aclmdlRICaptureEnd(void *stream, void **graph) {
    *graph = (void *)capturing;
    report(CAPTURE_END, *graph);
    capturing = 0;
    return OK;
}
int aclmdlRICaptureThreadExchangeMode(int *mode) { return OK; }
int aclmdlRIExecuteAsync(void *graph, void *stream) { report(EXECUTE, graph); return OK; }
int aclmdlRIDestroy(void *graph) { report(DESTROY, graph); return OK; }
int aclmdlRICaptureTaskGrpBegin(void *stream) { report(GROUP_BEGIN, NULL); return OK; }
int aclmdlRICaptureTaskGrpEnd(void *stream, void **group) {
    *group = (void *)handle();
    report(GROUP_END, *group);
    return OK;
}
int aclmdlRICaptureTaskUpdateBegin(void *stream, void *group) {
    report(UPDATE_BEGIN, group);
    return OK;
}
int aclmdlRICaptureTaskUpdateEnd(void *stream) { report(UPDATE_END, NULL); return OK; }

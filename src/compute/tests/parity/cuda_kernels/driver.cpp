// Runs kernels on request: commands on standard input, answers on standard output, all numbers little-endian.
//
//   A bytes:u64                                     takes memory, filled with NaN bits; answers its number, u32
//   W buffer:u32 offset:u64 bytes:u64 data          writes
//   R buffer:u32 offset:u64 bytes:u64               answers the data
//   F buffer:u32                                    gives the memory back
//   L name:u32+chars grid:3*u32 block:3*u32 shared:u32 count:u32 arguments
//       argument: 'p' buffer:u32 offset:u64 | '0' null | 'i' i32 | 'f' f32 | 'd' f64 | 'u' u64
//                                                   launches; answers one byte, 1
//
// An access beside a buffer is for the address sanitizer to find: each buffer is an allocation of its own.
#include "host.h"

#include <map>
#include <string>
#include <type_traits>

#include "kernels.h"

struct Argument {
    char kind;
    void* pointer;
    int64_t integer;
    double real;
};

[[noreturn]] static void fail(const std::string& what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(2);
}

template <typename T>
static T take(const Argument& argument) {
    if constexpr (std::is_pointer_v<T>) {
        if (argument.kind != 'p' && argument.kind != '0') fail("a number where the kernel wants a pointer");
        return (T)argument.pointer;
    } else if constexpr (std::is_same_v<T, float>) {
        if (argument.kind != 'f') fail("the kernel wants an f32");
        return (float)argument.real;
    } else if constexpr (std::is_same_v<T, double>) {
        if (argument.kind != 'd') fail("the kernel wants an f64");
        return argument.real;
    } else {
        if (argument.kind != (sizeof(T) == 8 ? 'u' : 'i')) fail("the kernel wants another integer");
        return (T)argument.integer;
    }
}

using Call = std::function<void(const std::vector<Argument>&, Dim3, Dim3, size_t)>;

template <typename... A, size_t... I>
static void call_with(void (*kernel)(A...), const std::vector<Argument>& arguments, Dim3 grid, Dim3 block,
                      size_t shared, std::index_sequence<I...>) {
    if (arguments.size() != sizeof...(A)) fail("the kernel wants another number of arguments");
    run_kernel(grid, block, shared, [&] { kernel(take<A>(arguments[I])...); });
}

template <typename... A>
static Call callable(void (*kernel)(A...)) {
    return [kernel](const std::vector<Argument>& arguments, Dim3 grid, Dim3 block, size_t shared) {
        call_with(kernel, arguments, grid, block, shared, std::index_sequence_for<A...>{});
    };
}

static bool read_exactly(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

template <typename T>
static T next() {
    T value;
    if (!read_exactly(&value, sizeof value)) fail("the request ends in the middle");
    return value;
}

static void answer(const void* from, size_t bytes) {
    std::fwrite(from, 1, bytes, stdout);
    std::fflush(stdout);
}

int main() {
    static const std::map<std::string, Call> kernels = {
#include "names.h"
    };
    std::map<uint32_t, std::pair<unsigned char*, size_t>> buffers;
    uint32_t last = 0;
    const auto piece = [&](size_t& bytes) {
        const auto found = buffers.find(next<uint32_t>());
        const uint64_t offset = next<uint64_t>();
        bytes = next<uint64_t>();
        if (found == buffers.end() || offset + bytes > found->second.second) fail("a piece beside its buffer");
        return found->second.first + offset;
    };
    for (char command; read_exactly(&command, 1);) {
        size_t bytes;
        if (command == 'A') {
            bytes = next<uint64_t>();
            auto* memory = (unsigned char*)std::aligned_alloc(16, (bytes + 15) / 16 * 16 + 16);
            std::memset(memory, 0xff, bytes);
            buffers[++last] = {memory, bytes};
            answer(&last, 4);
        } else if (command == 'W') {
            unsigned char* to = piece(bytes);
            if (!read_exactly(to, bytes)) fail("the data end in the middle");
        } else if (command == 'R') {
            const unsigned char* from = piece(bytes);
            answer(from, bytes);
        } else if (command == 'F') {
            const uint32_t id = next<uint32_t>();
            if (buffers.count(id)) std::free(buffers[id].first);
            buffers.erase(id);
        } else if (command == 'L') {
            std::string name(next<uint32_t>(), ' ');
            if (!read_exactly(&name[0], name.size())) fail("the name ends in the middle");
            Dim3 shape[2];
            for (Dim3& s : shape) s.x = next<uint32_t>(), s.y = next<uint32_t>(), s.z = next<uint32_t>();
            const size_t shared = next<uint32_t>();
            std::vector<Argument> arguments(next<uint32_t>());
            for (Argument& argument : arguments) {
                argument = {next<char>(), nullptr, 0, 0.0};
                switch (argument.kind) {
                    case 'p': {
                        const auto found = buffers.find(next<uint32_t>());
                        const uint64_t offset = next<uint64_t>();
                        if (found == buffers.end() || offset > found->second.second) fail(name + ": no such buffer");
                        argument.pointer = found->second.first + offset;
                        break;
                    }
                    case '0': break;
                    case 'i': argument.integer = next<int32_t>(); break;
                    case 'u': argument.integer = (int64_t)next<uint64_t>(); break;
                    case 'f': argument.real = next<float>(); break;
                    case 'd': argument.real = next<double>(); break;
                    default: fail(name + ": an argument of no known kind");
                }
            }
            const auto found = kernels.find(name);
            if (found == kernels.end()) fail(name + ": no such kernel");
            found->second(arguments, shape[0], shape[1], shared);
            const char done = 1;
            answer(&done, 1);
        } else {
            fail("no such command");
        }
    }
    end_workers();
    return 0;
}

// RUN: kaoken-opt %s -p plan-memory | filecheck %s
// RUN: kaoken-opt %s -p plan-memory,plan-memory | filecheck %s

// CHECK: builtin.module attributes {kaoken.arena_bytes = 0 : i64, kaoken.arena_lower_bound = 0 : i64}
builtin.module {
}

// RUN: kaoken-opt %s -t 'c{lower=false target="x86-64-v4+amx"}' | filecheck %s
// RUN: kaoken-opt %s -t 'c{lower=false target=x86-64-v4}' | filecheck %s --check-prefix=LOOPS

// Tiles 0 to 3 hold sums, 4 and 5 the left factor, 6 and 7 the right one. Only 4 of 16 columns
// remain for the second tile, and 4 words for the last step.
// CHECK-LABEL: static void kaoken_product(
// CHECK:       int64_t kk_shape = 0;
// CHECK-NEXT:  kk_shape = kk_shape_tiles(kk_shape, rows, 20, 16);
// CHECK-NEXT:  if (rows > 16) {
// CHECK-NEXT:      _tile_zero(0);
// CHECK-NEXT:      _tile_zero(1);
// CHECK-NEXT:      _tile_zero(2);
// CHECK-NEXT:      _tile_zero(3);
// CHECK-NEXT:      for (int64_t k = 0; k < 32; k += 16) {
// CHECK-NEXT:          _tile_loadd(4, &x[k], 144);
// CHECK-NEXT:          _tile_loadd(5, &x[k + 576], 144);
// CHECK-NEXT:          _tile_loadd(6, &w[k * 20], 80);
// CHECK-NEXT:          _tile_loadd(7, &w[k * 20 + 16], 80);
// CHECK-NEXT:          _tile_dpbf16ps(0, 4, 6);
// CHECK-NEXT:          _tile_dpbf16ps(1, 4, 7);
// CHECK-NEXT:          _tile_dpbf16ps(2, 5, 6);
// CHECK-NEXT:          _tile_dpbf16ps(3, 5, 7);
// CHECK-NEXT:      }
// CHECK-NEXT:      _tile_stored(0, &y[0], 80);
// CHECK-NEXT:      _tile_stored(1, &y[16], 80);
// CHECK-NEXT:      _tile_stored(2, &y[320], 80);
// CHECK-NEXT:      _tile_stored(3, &y[336], 80);
// CHECK-NEXT:  } else {
// CHECK-NEXT:      _tile_zero(0);
// CHECK-NEXT:      _tile_zero(1);
// CHECK-NOT:       (5,
// CHECK:       kk_shape = kk_shape_tiles(kk_shape, rows, 20, 4);
// CHECK-NEXT:  if (rows > 16) {
// CHECK-NEXT:      _tile_loadd(0, &y[0], 80);
// CHECK:           _tile_loadd(4, &x[32], 144);
// CHECK:       _tile_release();
// CHECK-NEXT:  }

// LOOPS-LABEL: static void kaoken_product(
// LOOPS:      for (int64_t i = 0; i < rows; i++) {
// LOOPS-NEXT:     for (int64_t j = 0; j < 20; j++) {
// LOOPS-NEXT:         float sum = 0;
// LOOPS-NEXT:         for (int64_t k = 0; k < 36; k++) {
// LOOPS-NEXT:             sum = kk_dot_bf16(x[i * 36 + k], w[k * 20 + j], sum);
// LOOPS-NEXT:         }
// LOOPS-NEXT:         y[i * 20 + j] = sum;
func.func @product(%x: memref<?x36xi32>, %w: memref<36x20xi32>, %y: memref<32x20xf32>, %rows: index) {
  %c0 = arith.constant 0 : index
  %depth = arith.constant 36 : index
  kaoken_loop.contract bf16 %x[%c0, %c0], %w[%c0, %c0] into %y[%c0, %c0] rows %rows depth %depth
    {columns = 20} : memref<?x36xi32>, memref<36x20xi32>, memref<32x20xf32>
  func.return
}

// 64 rows of 128 bytes are two pages, whose lines are asked for in turn, 32 at each step.
// CHECK-LABEL: static void kaoken_ahead(
// CHECK:       const char *ahead = kk_pages_ahead(w, 0 / 64, 2);
// CHECK-NEXT:  const int64_t lines = 16;
// CHECK:       } else {
// CHECK:           for (int64_t k = 0; k < 64; k += 16) {
// CHECK-NEXT:          ahead = kk_prefetch_pages(ahead, lines, 2);
// CHECK-NEXT:          _tile_loadd(4, &x[k], 256);
func.func @ahead(%x: memref<?x64xi32>, %w: memref<64x32xi32>, %y: memref<32x32xf32>, %rows: index) {
  %c0 = arith.constant 0 : index
  %depth = arith.constant 64 : index
  kaoken_loop.contract bf16 %x[%c0, %c0], %w[%c0, %c0] into %y[%c0, %c0] rows %rows depth %depth
    {columns = 32, ahead = array<i64: 64>} : memref<?x64xi32>, memref<64x32xi32>, memref<32x32xf32>
  func.return
}

// Up to 40 rows: a block of 16 words is passed by all, sums wait in memory; of the right factor the
// next block is asked for into the first cache, and what is farther in turns of pages. Rows share that.
// CHECK-LABEL: static void kaoken_blocks(
// CHECK:       const int64_t block = rows > 32 ? 16 : 32;
// CHECK-NEXT:  for (int64_t k = 0; k < 32; k += block) {
// CHECK-NEXT:      const int64_t end = kk_min_i64(32, k + block);
// CHECK-NEXT:      const int64_t blocks = (rows + 31) / 32;
// CHECK-NEXT:      const char *ahead = (const char *)&w[(k + 16) * 32];
// CHECK-NEXT:      const int64_t lines = blocks > 1 ? (32 + blocks - 1) / blocks : 0;
// CHECK-NEXT:      const char *ahead_2 = kk_pages_ahead(w, (k * 32) * 4 / 64, 1);
// CHECK-NEXT:      const int64_t lines_2 = (32 + blocks - 1) / blocks;
// CHECK-NEXT:      for (int64_t i = 0; i < rows; i += 32) {
// CHECK:               if (k == 0) {
// CHECK-NEXT:              _tile_zero(0);
// CHECK:               } else {
// CHECK-NEXT:              _tile_loadd(0, &y[i * 32], 128);
// CHECK:               for (int64_t k_2 = k; k_2 < end; k_2 += 16) {
// CHECK-NEXT:              for (int64_t i_2 = 0; i_2 < lines; i_2++, ahead += 64) {
// CHECK-NEXT:                  __builtin_prefetch(ahead, 0, 3);
// CHECK:                   ahead_2 = kk_prefetch_pages(ahead_2, lines_2, 1);
// CHECK:                   _tile_dpbf16ps(3, 5, 7);
func.func @blocks(%x: memref<?x32xi32>, %w: memref<32x32xi32>, %y: memref<40x32xf32>, %rows: index) {
  %c0 = arith.constant 0 : index
  %depth = arith.constant 32 : index
  kaoken_loop.contract bf16 %x[%c0, %c0], %w[%c0, %c0] into %y[%c0, %c0] rows %rows depth %depth
    {columns = 32 : i64, block = 16 : i64, ahead = array<i64: 16, 32>} : memref<?x32xi32>, memref<32x32xi32>, memref<40x32xf32>
  func.return
}

// The left factor's columns lie in panels of 16: a tile is one piece.
// CHECK-LABEL: static void kaoken_panels(
// CHECK:           for (int64_t k = 0; k < 32; k += 16) {
// CHECK-NEXT:          _tile_loadd(4, &x[(k / 16 * m + first) * 16], 64);
// CHECK-NEXT:          _tile_loadd(5, &x[(k / 16 * m + first + 16) * 16], 64);
// LOOPS-LABEL: static void kaoken_panels(
// LOOPS:       sum = kk_dot_bf16(x[(k / 16 * m + first + i) * 16 + k % 16], w[k * 32 + j], sum);
func.func @panels(%m: index {kaoken.name = "m"}, %x: memref<2x?x16xi32> {kaoken.shape = #kaoken.shape<[2, m, 16]>}, %w: memref<32x32xi32>, %y: memref<32x32xf32>, %first: index, %rows: index) {
  %c0 = arith.constant 0 : index
  %depth = arith.constant 32 : index
  kaoken_loop.contract bf16 %x[%c0, %first, %c0], %w[%c0, %c0] into %y[%c0, %c0] rows %rows depth %depth
    {columns = 32 : i64, lhs_in_panels} : memref<2x?x16xi32>, memref<32x32xi32>, memref<32x32xf32>
  func.return
}

// RUN: kaoken-opt %s -t 'c{target=x86-64-v4 lower=false}' | filecheck %s

// One case for each number of rows that may remain; a row vector has no loop over rows.

#both = affine_map<(d0, d1) -> (d0, d1)>

func.func private @negate(%x: memref<?x16xf32>, %rows: index) {
  %c0 = arith.constant 0 : index
  %pad = arith.constant 0.0 : f32
  affine.for %m = 0 to %rows step 2 {
    %left = affine.min affine_map<(d0)[s0] -> (2, s0 - d0)>(%m)[%rows]
    scf.index_switch %left
    case 1 {
      %v = vector.transfer_read %x[%m, %c0], %pad {permutation_map = #both, in_bounds = [true, true]} : memref<?x16xf32>, vector<1x16xf32>
      %n = arith.negf %v : vector<1x16xf32>
      vector.transfer_write %n, %x[%m, %c0] {permutation_map = #both, in_bounds = [true, true]} : vector<1x16xf32>, memref<?x16xf32>
      scf.yield
    }
    case 2 {
      %v = vector.transfer_read %x[%m, %c0], %pad {permutation_map = #both, in_bounds = [true, true]} : memref<?x16xf32>, vector<2x16xf32>
      %n = arith.negf %v : vector<2x16xf32>
      vector.transfer_write %n, %x[%m, %c0] {permutation_map = #both, in_bounds = [true, true]} : vector<2x16xf32>, memref<?x16xf32>
      scf.yield
    }
    default {
      scf.yield
    }
  }
  func.return
}

// CHECK:          for (int64_t m = 0; m < rows; m += 2) {
// CHECK-NEXT:         switch (kk_min_i64(2, rows - m)) {
// CHECK-NEXT:         case 1: {
// CHECK-NEXT:             _mm512_storeu_ps(&x[m * 16], -_mm512_loadu_ps(&x[m * 16]));
// CHECK-NEXT:             break;
// CHECK-NEXT:         }
// CHECK-NEXT:         case 2: {
// CHECK-NEXT: #pragma GCC unroll 2
// CHECK-NEXT:             for (int i = 0; i < 2; i++) {
// CHECK-NEXT:                 _mm512_storeu_ps(&x[(m + i) * 16], -_mm512_loadu_ps(&x[(m + i) * 16]));
// CHECK-NEXT:             }
// CHECK-NEXT:             break;
// CHECK-NEXT:         }
// CHECK-NEXT:         }
// CHECK-NEXT:     }

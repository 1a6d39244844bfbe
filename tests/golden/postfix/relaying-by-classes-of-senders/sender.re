/@forged\./ 554 5.7.1 forged
!/@/ REJECT
/^$/ DUNNO
